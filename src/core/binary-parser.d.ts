/** The part of binary-parser that is used here: its own declarations are not found under "import". */
declare module 'binary-parser' {
  export class Parser {
    endianness(endianness: 'little' | 'big'): this;
    // biome-ignore lint/suspicious/noExplicitAny: what it parses is checked where it is used
    parse(octets: Uint8Array): any;
    uint8(name: string): this;
    uint16(name: string): this;
    uint32(name: string): this;
    string(name: string, options: { length: number; stripNull?: boolean }): this;
    array(name: string, options: { type: Parser; length: string | number }): this;
    seek(octets: number): this;
  }
}
