/**
 * The three failures of the project and their forms: a caller's bug is an assertion, a peer's fault
 * is a transport's `RemoteProtocolError`, and a user's mistake is a `UserError`: one sentence,
 * "Cannot <action> <object>: <what is>, <what is wanted>", no stack trace, exit code 2.
 */
export class UserError extends Error {
  override readonly name = 'UserError';
}

/** What a peer did wrong; the connection it came on ends. */
export type ProtocolErrorCode =
  | 'bad-version'
  | 'bad-operation'
  | 'bad-command'
  | 'bad-device-id'
  | 'bad-direction'
  | 'bad-length'
  | 'bad-packet-count'
  | 'duplicate-seqnum'
  | 'unknown-seqnum';

/** A peer broke the protocol. `code` is for programs, the message for the log. */
export class RemoteProtocolError extends Error {
  override readonly name = 'RemoteProtocolError';
  readonly code: ProtocolErrorCode;

  constructor(code: ProtocolErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
