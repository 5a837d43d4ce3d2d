/**
 * A disk image: a regular file, or a block device on Linux.
 *
 * Reads and writes go through Node's thread pool and the page cache of the system. What is written
 * survives the death of the gateway at once, and of the machine after `sync` (fdatasync).
 *
 * An image in use is locked (flock), exclusively or, when read-only, among readers, so that two
 * gateways cannot write to one image. The kernel drops the lock with the process.
 */
import fs from 'node:fs';
import { UserError } from '../../../errors.ts';
import { NotRegular, openRegular } from '../../../files.ts';
import type { Backing, Done } from './backing.ts';
import { canPunchHoles, lockFile, punchHole } from './libc.ts';

export interface ImageOptions {
  readonly readonly: boolean;
  readonly blockOctets: number;
  /** Wanted size; a missing image is created with it, as a sparse file. */
  readonly octets?: number;
}

/** @throws {UserError} if the image cannot serve as a disk. */
export function openImage(path: string, options: ImageOptions): FileBacking {
  if (!fs.existsSync(path)) createImage(path, options);
  const fd = openFile(path, options.readonly);
  try {
    const stat = fs.fstatSync(fd);
    if (lockFile(fd, options.readonly) === 'busy') {
      throw refusal(
        path,
        'it is locked by another process, expected an image that no other gateway exports',
      );
    }
    const octets = stat.isBlockDevice() ? blockDeviceOctets(path, stat) : stat.size;
    checkSize(path, octets, options);
    return new FileBacking(fd, octets, options.readonly);
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

const refusal = (path: string, reason: string) =>
  new UserError(`Cannot open disk image ${path}: ${reason}`);

function createImage(path: string, options: ImageOptions): void {
  if (options.octets === undefined || options.readonly) {
    const wanted = options.readonly
      ? 'an image that exists, to read from'
      : 'an image that exists, or size= to create one';
    throw refusal(path, `there is no such file, expected ${wanted}`);
  }
  const action = (error: unknown) =>
    new UserError(
      `Cannot create disk image ${path}: ${reasonOf(error)}, ` +
        `expected a place for a sparse file of ${options.octets} octets`,
    );
  let fd: number;
  try {
    fd = fs.openSync(path, 'wx', 0o600);
  } catch (error) {
    throw action(error);
  }
  try {
    fs.ftruncateSync(fd, options.octets);
  } catch (error) {
    fs.unlinkSync(path);
    throw action(error);
  } finally {
    fs.closeSync(fd);
  }
}

function openFile(path: string, readonly: boolean): number {
  try {
    const flags = readonly ? fs.constants.O_RDONLY : fs.constants.O_RDWR;
    return openRegular(path, flags, { blockDevice: true });
  } catch (error) {
    if (error instanceof NotRegular) {
      throw refusal(path, `${error.message}, expected a file or a block device`);
    }
    const code = (error as NodeJS.ErrnoException).code;
    const isDenied = code === 'EACCES' || code === 'EPERM' || code === 'EROFS';
    if (isDenied && !readonly) {
      throw refusal(path, 'it is not writable, expected a writable image or the option readonly');
    }
    throw refusal(path, `${reasonOf(error)}, expected an image that can be opened`);
  }
}

function checkSize(path: string, octets: number, options: ImageOptions): void {
  if (octets === 0) throw refusal(path, 'it is empty, expected at least one block');
  if (octets % options.blockOctets !== 0) {
    throw refusal(
      path,
      `it holds ${octets} octets, expected a multiple of the block size, ${options.blockOctets}`,
    );
  }
  if (options.octets !== undefined && options.octets !== octets) {
    throw refusal(path, `it holds ${octets} octets, expected the size given, ${options.octets}`);
  }
}

/** The size of a block device is not in its stat; the kernel tells it in 512-octet sectors. */
function blockDeviceOctets(path: string, stat: fs.Stats): number {
  // Linux's huge encoding of dev_t: 12 bits of major above the low 8 bits of minor, and the rest
  // of minor from bit 20 on.
  const major = Math.floor(stat.rdev / 256) % 4096;
  const minor = (stat.rdev % 256) + Math.floor(stat.rdev / 2 ** 20) * 256;
  try {
    return Number(fs.readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * 512;
  } catch {
    throw refusal(path, 'it is a block device of unknown size, expected a file here');
  }
}

/** "permission denied" out of "EACCES: permission denied, open '/x'". */
function reasonOf(error: unknown): string {
  const text = (error as Error).message;
  return /^\w+: ([^,]*)/.exec(text)?.[1] ?? text;
}

export class FileBacking implements Backing {
  readonly octets: number;
  readonly readonly: boolean;
  readonly immediate = false;
  readonly discard: Backing['discard'];
  readonly #fd: number;

  constructor(fd: number, octets: number, readonly: boolean) {
    this.octets = octets;
    this.readonly = readonly;
    this.#fd = fd;
    this.discard =
      !readonly && canPunchHoles(fd, octets)
        ? (offset, count, done) => punchHole(fd, offset, count, done)
        : null;
  }

  read(offset: number, into: Buffer, done: Done): void {
    const from = (got: number): void => {
      fs.read(this.#fd, into, got, into.length - got, offset + got, (error, count) => {
        if (error !== null) done(error);
        else if (got + count === into.length) done(null);
        else if (count === 0)
          done(new Error(`Cannot read image at ${offset + got}: it has shrunk`));
        else from(got + count);
      });
    };
    from(0);
  }

  write(offset: number, octets: Buffer, done: Done): void {
    const from = (put: number): void => {
      fs.write(this.#fd, octets, put, octets.length - put, offset + put, (error, count) => {
        if (error !== null) done(error);
        else if (put + count === octets.length) done(null);
        else from(put + count);
      });
    };
    from(0);
  }

  sync(done: Done): void {
    fs.fdatasync(this.#fd, done);
  }

  close(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.close(this.#fd, (error) => (error ? reject(error) : resolve()));
    });
  }
}
