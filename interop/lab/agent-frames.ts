/**
 * The frames between {@link file://./guest.ts} and guest-agent.c, over a virtio-serial port.
 *
 * A frame is three little-endian 32-bit words (payload octets, command id, kind), then the payload.
 */

/** Kinds of frames to the agent. */
export const ToAgent = { start: 1, input: 2, inputEnd: 3, signal: 4, powerOff: 5 } as const;

/** Kinds of frames from the agent. */
export const ToHost = { hello: 1, output: 2, errorOutput: 3, exit: 4, kernelLog: 5 } as const;

export interface Frame {
  /** 0 for what belongs to no command. */
  id: number;
  kind: number;
  payload: Buffer;
}

const HEADER_OCTETS = 12;

/** The agent refuses longer payloads. */
export const PAYLOAD_OCTETS_MAX = 1 << 20;

/** One frame to the agent. */
export function encodeFrame(
  id: number,
  kind: number,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  if (payload.length > PAYLOAD_OCTETS_MAX) {
    throw new RangeError(
      `Cannot encode a frame: its payload has ${payload.length} octets, ` +
        `at most ${PAYLOAD_OCTETS_MAX} are taken`,
    );
  }
  const header = Buffer.alloc(HEADER_OCTETS);
  header.writeUInt32LE(payload.length, 0);
  header.writeUInt32LE(id, 4);
  header.writeUInt32LE(kind, 8);
  return Buffer.concat([header, payload]);
}

/** Cuts a stream of octets into frames. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #octets = 0;

  /** Takes the next octets of the stream. @returns the frames that they complete, in order */
  push(chunk: Buffer): Frame[] {
    this.#chunks.push(chunk);
    this.#octets += chunk.length;
    const frames: Frame[] = [];
    for (let frame = this.#next(); frame !== undefined; frame = this.#next()) frames.push(frame);
    return frames;
  }

  #next(): Frame | undefined {
    const header = this.#peek(HEADER_OCTETS);
    if (header === undefined) return undefined;
    const octets = HEADER_OCTETS + header.readUInt32LE(0);
    const whole = this.#peek(octets);
    if (whole === undefined) return undefined;
    this.#chunks = [whole.subarray(octets)];
    this.#octets -= octets;
    return {
      id: whole.readUInt32LE(4),
      kind: whole.readUInt32LE(8),
      payload: whole.subarray(HEADER_OCTETS, octets),
    };
  }

  /** The first octets of what is left, in one buffer, if there are so many. */
  #peek(octets: number): Buffer | undefined {
    if (this.#octets < octets) return undefined;
    const first = this.#chunks[0];
    if (first !== undefined && first.length >= octets) return first;
    const whole = Buffer.concat(this.#chunks);
    this.#chunks = [whole];
    return whole;
  }
}
