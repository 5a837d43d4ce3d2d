/**
 * Attachments that come back at boot: a text file with the options of one `urbgate attach` a line,
 *
 *   # the label printer
 *   -r 10.0.0.2 -d 0525:a4a0:12345
 *
 * Whatever stands there is waited for and kept (--wait, --persist); no word may have a blank in it.
 */
import { closeSync, existsSync, mkdirSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from '../core/errors.ts';
import { APPEND, openRegular, readRegular } from '../core/files.ts';
import { formatAddress } from '../usbip/server.ts';
import { type AttachRequest, isRing } from './attach-protocol.ts';

export const ATTACH_FILE_DEFAULT = '/etc/urbgate/attachments';

/** A line has about 50, and there are at most 128 attachments. */
const FILE_BYTES_MAX = 1024 * 1024;

export function attachFile(environment: Readonly<Record<string, string | undefined>>): string {
  return environment.URBGATE_ATTACHMENTS || ATTACH_FILE_DEFAULT;
}

/** The words of each line that has any. */
export function savedLines(text: string): string[][] {
  return text
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => line !== '')
    .map((line) => line.split(/\s+/));
}

/**
 * @throws {UserError} if the file cannot be read.
 */
export function readSaved(path: string): string[][] {
  try {
    return readLines(path);
  } catch (error) {
    throw new UserError(
      `Cannot read saved attachments in ${path}: ${(error as Error).message}, wanted a text file`,
    );
  }
}

function readLines(path: string): string[][] {
  return savedLines(readRegular(path, FILE_BYTES_MAX).toString('utf8'));
}

/** The line that asks for the same again. */
export function savedLine(request: AttachRequest): string {
  if (isRing(request)) {
    const { controller, ports } = request;
    return ['--xen', '--controller', controller, ...ports.flatMap((n) => ['--port', n])].join(' ');
  }
  const { server, busId, device, direct } = request;
  const what = busId === undefined ? `-d ${device}` : `-b ${busId}`;
  return `-r ${formatAddress(server)} ${what}${direct ? ' --direct' : ''}`;
}

/**
 * Adds an attachment, if it is not there.
 *
 * @throws {UserError} if the file cannot be written.
 */
export function save(path: string, request: AttachRequest): void {
  const line = savedLine(request);
  try {
    const known = existsSync(path) ? readLines(path) : [];
    if (known.some((words) => words.join(' ') === line)) return;
    mkdirSync(dirname(path), { recursive: true });
    const fd = openRegular(path, APPEND);
    try {
      writeSync(fd, `${line}\n`);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw new UserError(
      `Cannot save the attachment in ${path}: ${(error as Error).message}, wanted a text file`,
    );
  }
}
