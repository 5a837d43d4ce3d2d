/**
 * The text that says what to export: `SCHEME:TARGET[,option[=value]]...`, say
 * `virtual:disk,file=a.img,readonly,busid=3-1`.
 *
 * The scheme chooses where the device comes from and what its target and options mean; this file
 * knows only their form. `busid=B-P` belongs to every scheme. A comma inside a value is written
 * `\,`; any other backslash pair stays as it is, so that a value can have escapes of its own.
 */
import { resolve } from 'node:path';
import type { OptionSpec } from './devices/virtual/kind.ts';
import { UserError } from './errors.ts';

/** A spec is typed by a person, or comes through the control socket. */
const SPEC_CHARACTERS_MAX = 8192;

export interface ExportSpec {
  /** As the user wrote it. */
  readonly text: string;
  readonly scheme: string;
  readonly target: string;
  /** Values as written; true for an option that stands alone. */
  readonly options: ReadonlyMap<string, string | true>;
  /** What `busid=` asks for. */
  readonly busId: string | undefined;
}

/**
 * @throws {UserError} if the text has not the form of a spec.
 */
export function parseExportSpec(text: string): ExportSpec {
  const refuse = (what: string) => new UserError(`Cannot export ${text}: ${what}`);
  if (text.length > SPEC_CHARACTERS_MAX) {
    throw new UserError(
      `Cannot export ${text.slice(0, 40)}...: ${text.length} characters, at most ${SPEC_CHARACTERS_MAX}`,
    );
  }
  const [head = '', ...fields] = splitAtCommas(text);
  const [, scheme, target] = /^([a-z][a-z0-9-]*):(.+)$/s.exec(head) ?? [];
  if (scheme === undefined || target === undefined) {
    throw refuse(
      'not a SPEC, wanted SCHEME:NAME[,option=value]... such as virtual:disk,size=64MiB',
    );
  }
  const options = new Map<string, string | true>();
  for (const field of fields) {
    const equals = field.indexOf('=');
    const key = equals < 0 ? field : field.slice(0, equals);
    if (key === '') throw refuse(`"${field}" has no option name, wanted option or option=value`);
    if (options.has(key)) throw refuse(`option ${key} is given twice, wanted once`);
    options.set(key, equals < 0 ? true : field.slice(equals + 1));
  }
  const busId = options.get('busid');
  options.delete('busid');
  if (busId === true) throw refuse('option busid has no value, wanted busid=B-P such as busid=1-1');
  return { text, scheme, target, options, busId };
}

/** Cuts at each comma that no backslash precedes, and turns `\,` into a comma. */
function splitAtCommas(text: string): string[] {
  const pieces = text.match(/\\.|,|[^\\,]+|\\$/gs) ?? [];
  const fields = [''];
  for (const piece of pieces) {
    if (piece === ',') fields.push('');
    else fields.push(fields.pop() + (piece === '\\,' ? ',' : piece));
  }
  return fields;
}

/**
 * Reads a spec's options by the table of what its target takes.
 *
 * @param folder what a relative `file` is relative to.
 * @throws {UserError} if there is an option too many, or a value that cannot be read.
 */
export function readOptions(
  spec: ExportSpec,
  table: Readonly<Record<string, OptionSpec>>,
  folder: string,
): Record<string, string | number | true> {
  const values: Record<string, string | number | true> = {};
  for (const [key, written] of spec.options) {
    const option = Object.hasOwn(table, key) ? table[key] : undefined;
    if (option === undefined) {
      const known = [...Object.keys(table), 'busid'].join(', ');
      throw new UserError(
        `Cannot export ${spec.text}: unknown option ${key}, wanted one of ${known}`,
      );
    }
    const value = READERS[option.type](written, folder);
    if (value === undefined) {
      const given = written === true ? `${key} has no value` : `${key}=${written}`;
      throw new UserError(
        `Cannot export ${spec.text}: ${given}, wanted ${FORMS[option.type](key)}`,
      );
    }
    if (option.max !== undefined && Number(value) > option.max) {
      throw new UserError(
        `Cannot export ${spec.text}: ${key}=${written}, wanted at most ${option.max}`,
      );
    }
    values[key] = value;
  }
  return values;
}

type Reader = (written: string | true, folder: string) => string | number | true | undefined;

/** From what is written to the option's value; undefined if it cannot be read. */
const READERS: Readonly<Record<OptionSpec['type'], Reader>> = {
  text: (written) => (written === true ? undefined : written),
  file: (written, folder) =>
    written === true || written === '' || written.includes('\0')
      ? undefined
      : resolve(folder, written),
  size: (written) => (written === true ? undefined : parseSize(written)),
  count: (written) => {
    if (written === true || !/^\d+$/.test(written)) return undefined;
    const count = Number(written);
    return Number.isSafeInteger(count) ? count : undefined;
  },
  flag: (written) => (written === true ? true : undefined),
};

const FORMS: Readonly<Record<OptionSpec['type'], (key: string) => string>> = {
  text: (key) => `${key}=TEXT`,
  file: (key) => `${key}=PATH`,
  size: (key) => `a size such as ${key}=4096, ${key}=64MiB or ${key}=3TiB`,
  count: (key) => `a whole number such as ${key}=1000`,
  flag: (key) => `${key} alone`,
};

const UNITS = ['', 'K', 'M', 'G', 'T'];

/** Octets: a whole number, with K, M, G, T or KiB, MiB, GiB, TiB for powers of 1024. */
export function parseSize(written: string): number | undefined {
  const [, digits, unit] = /^(\d+)(?:([KMGT])(?:iB)?)?$/.exec(written) ?? [];
  if (digits === undefined) return undefined;
  const octets = Number(digits) * 1024 ** UNITS.indexOf(unit ?? '');
  return Number.isSafeInteger(octets) ? octets : undefined;
}
