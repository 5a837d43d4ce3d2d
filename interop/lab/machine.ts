/** What is around a guest's agent: how to reach it, and what can be done to the machine. */

export interface Machine {
  /** Resolves when the machine has ended, for whatever reason. Nothing comes from it after that. */
  readonly ended: Promise<void>;
  /** Called with what the agent sends. */
  onOctets: (octets: Buffer) => void;
  /** Sends octets to the agent; does nothing when the machine has ended. */
  write(octets: Uint8Array): void;
  /** Ends it at once and without order; `ended` tells when that is done. */
  kill(): void;
  /** Stops all of it, as when it hangs, and lets it go on. */
  pause(): void;
  resume(): void;
  /** Lets it reach a port of the host's loopback, see `Guest.forward`; absent without a network. */
  forward?(hostPort: number, guestPort: number): void;
  /** All of its console so far. */
  console(): string;
  /** What the programs that run it have complained of. */
  messages(): string;
}
