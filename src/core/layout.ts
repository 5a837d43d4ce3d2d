/**
 * Fixed wire structures, declared once: a list of fields gives the reader, the writer, the offsets
 * for code that is too hot for either, and the TypeScript type.
 */
import { strict as assert } from 'node:assert';

export interface Field<T> {
  readonly octets: number;
  readonly get: (buffer: Buffer, at: number) => T;
  readonly set: (buffer: Buffer, at: number, value: T) => void;
}

export const u8: Field<number> = {
  octets: 1,
  get: (buffer, at) => buffer.readUInt8(at),
  set: (buffer, at, value) => buffer.writeUInt8(value, at),
};
export const u16be: Field<number> = {
  octets: 2,
  get: (buffer, at) => buffer.readUInt16BE(at),
  set: (buffer, at, value) => buffer.writeUInt16BE(value, at),
};
export const u32be: Field<number> = {
  octets: 4,
  get: (buffer, at) => buffer.readUInt32BE(at),
  set: (buffer, at, value) => buffer.writeUInt32BE(value, at),
};
export const i32be: Field<number> = {
  octets: 4,
  get: (buffer, at) => buffer.readInt32BE(at),
  set: (buffer, at, value) => buffer.writeInt32BE(value, at),
};
export const u16le: Field<number> = {
  octets: 2,
  get: (buffer, at) => buffer.readUInt16LE(at),
  set: (buffer, at, value) => buffer.writeUInt16LE(value, at),
};
export const u32le: Field<number> = {
  octets: 4,
  get: (buffer, at) => buffer.readUInt32LE(at),
  set: (buffer, at, value) => buffer.writeUInt32LE(value, at),
};

/** `count` octets as they are; reading gives a view, not a copy. */
export const octets = (count: number): Field<Uint8Array> => ({
  octets: count,
  get: (buffer, at) => buffer.subarray(at, at + count),
  set: (buffer, at, value) => {
    if (value.length !== count) {
      throw new RangeError(`Cannot write octets: ${value.length} octets, wanted ${count}`);
    }
    buffer.set(value, at);
  },
});

/** Text that ends at its first NUL in a field of `count` octets; always leaves room for the NUL. */
export const text = (count: number): Field<string> => ({
  octets: count,
  get: (buffer, at) => {
    const nul = buffer.indexOf(0, at);
    return buffer.toString('utf8', at, nul < 0 || nul > at + count ? at + count : nul);
  },
  set: (buffer, at, value) => {
    const length = Buffer.byteLength(value);
    if (length >= count) {
      throw new RangeError(`Cannot write text "${value}": ${length} octets, at most ${count - 1}`);
    }
    buffer.fill(0, at, at + count);
    buffer.write(value, at, 'utf8');
  },
});

type Fields = Record<string, Field<never>>;
type Value<F> = F extends Field<infer T> ? T : never;
/** The plain object that a layout reads and writes. */
export type Of<L> = L extends Layout<infer F> ? { -readonly [K in keyof F]: Value<F[K]> } : never;

export interface Layout<F> {
  readonly name: string;
  readonly octets: number;
  readonly offsets: Readonly<Record<keyof F, number>>;
  read(buffer: Buffer, at?: number): { [K in keyof F]: Value<F[K]> };
  write(value: { [K in keyof F]: Value<F[K]> }, buffer?: Buffer, at?: number): Buffer;
}

/**
 * Declares a structure of `total` octets.
 *
 * @throws {AssertionError} at import if the fields do not fill `total` octets; {RangeError} when a
 * value that is written does not fit its field, or the buffer is too small.
 */
export function layout<F extends { [K in keyof F]: Field<Value<F[K]>> }>(
  name: string,
  total: number,
  fields: F,
): Layout<F> {
  const entries = Object.entries(fields as unknown as Fields) as unknown as [
    keyof F,
    Field<unknown>,
  ][];
  const offsets = {} as Record<keyof F, number>;
  let sum = 0;
  for (const [key, field] of entries) {
    offsets[key] = sum;
    sum += field.octets;
  }
  assert.equal(sum, total, `Cannot lay out ${name}: its fields fill ${sum} octets, not ${total}`);
  return {
    name,
    octets: total,
    offsets: Object.freeze(offsets),
    read(buffer, at = 0) {
      if (buffer.length < at + total) {
        throw new RangeError(`Cannot read ${name}: ${buffer.length - at} octets, wanted ${total}`);
      }
      const value = {} as { [K in keyof F]: Value<F[K]> };
      for (const [key, field] of entries) {
        value[key] = field.get(buffer, at + offsets[key]) as Value<F[typeof key]>;
      }
      return value;
    },
    write(value, buffer = Buffer.alloc(total), at = 0) {
      for (const [key, field] of entries) field.set(buffer, at + offsets[key], value[key]);
      return buffer;
    },
  };
}
