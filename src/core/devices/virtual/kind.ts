/**
 * A kind of virtual device that `urbgate serve --export virtual:NAME,option=value` can make.
 */
import type { DeviceDefinition } from './definition.ts';

/** How the text of an option is read. `size` takes 64KiB, 3TiB, 1000; `flag` stands alone. */
export type OptionType = 'text' | 'file' | 'size' | 'count' | 'flag';

export interface OptionSpec {
  readonly type: OptionType;
  readonly help: string;
  /** The largest count. */
  readonly max?: number;
}

/** Values after parsing: a string (text, file), a number (size, count), true (flag) or undefined. */
export type OptionValues<O extends Record<string, OptionSpec>> = {
  readonly [K in keyof O]?: O[K]['type'] extends 'flag'
    ? true
    : O[K]['type'] extends 'size' | 'count'
      ? number
      : string;
};

export interface VirtualKind<O extends Record<string, OptionSpec> = Record<string, OptionSpec>> {
  readonly name: string;
  readonly summary: string;
  readonly options: O;
  /**
   * @throws {UserError} if the options do not make a device: an image that is missing, say.
   */
  readonly define: (options: OptionValues<O>) => DeviceDefinition<unknown>;
}

/** Keeps the option names and types of one kind together. */
export function defineKind<S, O extends Record<string, OptionSpec>>(
  kind: Omit<VirtualKind<O>, 'define'> & {
    readonly define: (options: OptionValues<O>) => DeviceDefinition<S>;
  },
): VirtualKind {
  return kind as unknown as VirtualKind;
}
