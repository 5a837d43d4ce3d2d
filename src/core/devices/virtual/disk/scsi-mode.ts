/**
 * MODE SENSE and MODE SELECT: the settings of the unit, of which there is one, the write cache.
 *
 * Source: SPC-4, 6.9 to 6.12 and 7.5; the caching page is SBC-3, 6.4.5. WCE is set from the start:
 * it is how a host learns that it must send SYNCHRONIZE CACHE. Linux takes it, and the write-protect
 * bit, from the answer to "all pages" (3Fh) with an allocation length of 192 octets.
 */
import { cdbOctets } from './cdb.ts';
import type { Medium } from './medium.ts';
import type { LogicalUnit } from './scsi.ts';
import { SENSE, type Sense } from './sense.ts';
import { AnswerTask, DoneTask, FailedTask, ParameterTask, syncMedium, type Task } from './task.ts';

/** Longest list of parameters that MODE SELECT takes; header, descriptor and pages are 48. */
export const MODE_LIST_OCTETS_MAX = 255;

const PAGE = { caching: 0x08, control: 0x0a, all: 0x3f } as const;
const DESCRIPTOR_OCTETS = 8;
const WCE = 0x04;

/** Values that MODE SENSE can ask for: the PC field (SPC-4, table 145). */
const CONTROL = { current: 0, changeable: 1, defaults: 2, saved: 3 } as const;

/** MODE SENSE(6/10) (SPC-4, 6.11 and 6.12). */
export function modeSense(unit: LogicalUnit, cdb: Buffer): Task {
  const [, flags = 0, pageOctet = 0, subpage = 0] = cdb;
  const control = pageOctet >> 6;
  if (control === CONTROL.saved) return new FailedTask(SENSE.savingNotSupported);
  const pages = modePages(unit, control, pageOctet & 0x3f);
  const isSubpageKnown = subpage === 0x00 || subpage === 0xff; // none, or all: there are none
  if (pages.length === 0 || !isSubpageKnown) return new FailedTask(SENSE.invalidFieldInCommand);
  const DBD = 0x08;
  const descriptor = (flags & DBD) === 0 ? blockDescriptor(unit.medium) : Buffer.alloc(0);
  const body = Buffer.concat([descriptor, ...pages]);
  if (cdbOctets(cdb) === 6) {
    const head = [3 + body.length, 0, deviceSpecific(unit.medium), descriptor.length];
    return new AnswerTask(Buffer.concat([Buffer.from(head), body]), cdb.readUInt8(4));
  }
  const head = [0, 6 + body.length, 0, deviceSpecific(unit.medium), 0, 0, 0, descriptor.length];
  return new AnswerTask(Buffer.concat([Buffer.from(head), body]), cdb.readUInt16BE(7));
}

/** SBC-3, table 161. */
function deviceSpecific(medium: Medium): number {
  const [WP, DPOFUA] = [0x80, 0x10];
  return DPOFUA | (medium.readonly ? WP : 0);
}

/** Short LBA mode parameter block descriptor (SBC-3, 6.4.2.2). */
function blockDescriptor(medium: Medium): Buffer {
  const octets = Buffer.alloc(DESCRIPTOR_OCTETS);
  octets.writeUInt32BE(Math.min(medium.blocks, 0xffffffff), 0);
  octets.writeUIntBE(medium.blockOctets, 5, 3);
  return octets;
}

function modePages(unit: LogicalUnit, control: number, code: number): Buffer[] {
  const pages = [cachingPage(unit, control), controlPage()];
  return code === PAGE.all ? pages : pages.filter((page) => page[0] === code);
}

/** SBC-3, 6.4.5. */
function cachingPage(unit: LogicalUnit, control: number): Buffer {
  const page = Buffer.alloc(20);
  page[0] = PAGE.caching;
  page[1] = page.length - 2;
  if (control !== CONTROL.current || unit.writeCache) page[2] = WCE;
  return page;
}

/** SPC-4, 7.5.8: all zero. One task at a time, and sense data in the fixed format (D_SENSE 0). */
function controlPage(): Buffer {
  const page = Buffer.alloc(12);
  page[0] = PAGE.control;
  page[1] = page.length - 2;
  return page;
}

/** MODE SELECT(6/10) (SPC-4, 6.9 and 6.10). */
export function modeSelect(unit: LogicalUnit, cdb: Buffer): Task {
  const isSix = cdbOctets(cdb) === 6;
  const flags = cdb.readUInt8(1);
  const [PF, SP] = [0x10, 0x01];
  const octets = isSix ? cdb.readUInt8(4) : cdb.readUInt16BE(7);
  // Pages in a format of the vendor's, or to be saved for the next power-on: not here.
  if ((flags & PF) === 0 || (flags & SP) !== 0 || octets > MODE_LIST_OCTETS_MAX) {
    return new FailedTask(SENSE.invalidFieldInCommand);
  }
  if (octets === 0) return new DoneTask();
  return new ParameterTask(octets, (list, done) => {
    const parsed = parseModeList(unit, list, isSix);
    if ('key' in parsed) {
      done(parsed);
      return;
    }
    unit.writeCache = parsed.writeCache;
    if (unit.writeCache) done(null);
    else syncMedium(unit.medium, done);
  });
}

/**
 * Checks the whole list before anything changes (SPC-4, 6.9).
 *
 * The device-specific parameter is ignored: WP is not for the host to set, and DPOFUA reserved.
 */
function parseModeList(
  unit: LogicalUnit,
  list: Buffer,
  isSix: boolean,
): { readonly writeCache: boolean } | Sense {
  const headOctets = isSix ? 4 : 8;
  if (list.length < headOctets) return SENSE.parameterListLength;
  const descriptorOctets = isSix ? list.readUInt8(3) : list.readUInt16BE(6);
  const pagesAt = headOctets + descriptorOctets;
  if (list.length < pagesAt) return SENSE.parameterListLength;
  if (!isOurDescriptor(unit.medium, list.subarray(headOctets, pagesAt))) {
    return SENSE.invalidFieldInParameters;
  }
  let { writeCache } = unit;
  for (let at = pagesAt; at < list.length; ) {
    if (at + 2 > list.length) return SENSE.parameterListLength;
    const end = at + 2 + list.readUInt8(at + 1);
    if (end > list.length) return SENSE.parameterListLength;
    const page = list.subarray(at, end);
    if (!isAcceptable(unit, page)) return SENSE.invalidFieldInParameters;
    if ((page.readUInt8(0) & 0x3f) === PAGE.caching) writeCache = (page.readUInt8(2) & WCE) !== 0;
    at = end;
  }
  return { writeCache };
}

/** The disk cannot be resized: the descriptor must be absent, or say what is. */
function isOurDescriptor(medium: Medium, descriptor: Buffer): boolean {
  if (descriptor.length === 0) return true;
  if (descriptor.length !== DESCRIPTOR_OCTETS) return false;
  const blocks = descriptor.readUInt32BE(0);
  const isSame = blocks === 0 || blocks === Math.min(medium.blocks, 0xffffffff);
  return isSame && descriptor.readUIntBE(5, 3) === medium.blockOctets;
}

/** A page that we have, with nothing changed that cannot be. */
function isAcceptable(unit: LogicalUnit, page: Buffer): boolean {
  const code = page.readUInt8(0) & 0x7f; // without PS, which is reserved here
  const [current] = modePages(unit, CONTROL.current, code);
  if (current === undefined || code === PAGE.all || current.length !== page.length) return false;
  for (let i = 1; i < page.length; i++) {
    const changeable = code === PAGE.caching && i === 2 ? WCE : 0;
    if (((page.readUInt8(i) ^ current.readUInt8(i)) & ~changeable) !== 0) return false;
  }
  return true;
}
