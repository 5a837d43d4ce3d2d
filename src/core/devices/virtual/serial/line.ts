/** What a serial port is connected to: the far end of its cable. */
export interface Line {
  /** DTR rose: the host wants a connection. */
  raise(): void;
  /** DTR fell: the host hangs up. What it has sent before still goes out. */
  drop(): void;
  /** Takes octets from the host; returns how many, 0 if there is no room now. */
  give(octets: Buffer): number;
  /** Octets for the host, at most `octetsMax`; none if there are none now. Not changed later. */
  take(octetsMax: number): Uint8Array;
  /** A new host: ends the connection and forgets what is under way. */
  reset(): void;
  /** Frees everything, for good. */
  close(): Promise<void>;
}

/**
 * What a line tells the port, from within its methods or at any other time. More often than needed
 * is harmless.
 */
export interface LineListener {
  /** `take` has octets again. */
  octets(): void;
  /** `give` has room again. */
  room(): void;
  /** The far end came, went, or could not be reached. */
  carrier(up: boolean): void;
}
