/** What the other end of a ring did wrong. The connection ends; others do not notice. */
export type RingErrorCode =
  | 'bad-index'
  | 'bad-port'
  | 'bad-segments'
  | 'bad-response'
  | 'duplicate-id'
  | 'unknown-state';

/** The peer broke the protocol. `code` is for programs, the message for the log. */
export class RingError extends Error {
  override readonly name = 'RingError';
  readonly code: RingErrorCode;

  constructor(code: RingErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
