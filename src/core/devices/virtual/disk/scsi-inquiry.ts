/**
 * INQUIRY with its vital product data pages, and REPORT LUNS: what the unit is.
 *
 * Source: SPC-4, 6.4 and 7.8; the pages of block devices are in SBC-3, 6.5.
 */

import type { Identity, LogicalUnit } from './scsi.ts';
import { TRANSFER_BLOCKS_MAX } from './scsi-blocks.ts';
import {
  UNMAP_BLOCKS_MAX,
  UNMAP_DESCRIPTORS_MAX,
  writeSameBlocksMax,
} from './scsi-provisioning.ts';
import { SENSE } from './sense.ts';
import { AnswerTask, FailedTask, type Task } from './task.ts';

export const VPD = {
  supportedPages: 0x00,
  unitSerialNumber: 0x80,
  deviceIdentification: 0x83,
  blockLimits: 0xb0,
  blockDeviceCharacteristics: 0xb1,
  logicalBlockProvisioning: 0xb2,
} as const;

/** INQUIRY (SPC-4, 6.4). */
export function inquiry(unit: LogicalUnit, cdb: Buffer): Task {
  const [, flags = 0, page = 0] = cdb;
  const allocationOctets = cdb.readUInt16BE(3);
  if ((flags & 0x01) !== 0) {
    const body = vitalProductData(unit, page);
    if (body === null) return new FailedTask(SENSE.invalidFieldInCommand);
    return new AnswerTask(vpdPage(page, body), allocationOctets);
  }
  // A page code without EVPD, or the obsolete CMDDT.
  if (flags !== 0 || page !== 0) return new FailedTask(SENSE.invalidFieldInCommand);
  return new AnswerTask(standardInquiry(unit.identity), allocationOctets);
}

/** Standard INQUIRY data (SPC-4, 6.4.2): a fixed disk, so that Windows takes partitions on it. */
function standardInquiry(identity: Identity): Buffer {
  const octets = Buffer.alloc(36);
  octets[2] = 0x06; // VERSION: SPC-4
  octets[3] = 0x02; // RESPONSE DATA FORMAT
  octets[4] = octets.length - 5;
  octets.write(padded(identity.vendor, 8), 8, 'latin1');
  octets.write(padded(identity.product, 16), 16, 'latin1');
  octets.write(padded(identity.revision, 4), 32, 'latin1');
  return octets;
}

function vpdPage(page: number, body: Buffer): Buffer {
  const head = Buffer.from([0x00, page, 0, 0]);
  head.writeUInt16BE(body.length, 2);
  return Buffer.concat([head, body]);
}

function vitalProductData(unit: LogicalUnit, page: number): Buffer | null {
  switch (page) {
    case VPD.supportedPages:
      return Buffer.from(supportedPages(unit));
    case VPD.unitSerialNumber:
      return Buffer.from(unit.identity.serial, 'latin1');
    case VPD.deviceIdentification:
      return deviceIdentification(unit.identity);
    case VPD.blockLimits:
      return blockLimits(unit);
    case VPD.blockDeviceCharacteristics:
      return blockDeviceCharacteristics();
    case VPD.logicalBlockProvisioning:
      return unit.medium.canDiscard ? logicalBlockProvisioning() : null;
    default:
      return null;
  }
}

function supportedPages(unit: LogicalUnit): number[] {
  const pages = Object.values(VPD);
  return unit.medium.canDiscard
    ? pages
    : pages.filter((page) => page !== VPD.logicalBlockProvisioning);
}

/** SPC-4, 7.8.6: one designator, "T10 vendor ID based", unique through the serial number. */
function deviceIdentification({ vendor, product, serial }: Identity): Buffer {
  const text = padded(vendor, 8) + padded(product, 16) + serial;
  return Buffer.concat([
    Buffer.from([0x02, 0x01, 0, text.length]), // ASCII; of the logical unit, T10
    Buffer.from(text, 'latin1'),
  ]);
}

/** SBC-3, 6.5.3; offsets count from the fifth octet of the page. */
function blockLimits({ medium }: LogicalUnit): Buffer {
  const body = Buffer.alloc(60);
  body[0] = 0x01; // WSNZ: no WRITE SAME of "the rest of the disk"
  body.writeUInt32BE(TRANSFER_BLOCKS_MAX, 4);
  if (!medium.canDiscard) return body;
  body.writeUInt32BE(UNMAP_BLOCKS_MAX, 16);
  body.writeUInt32BE(UNMAP_DESCRIPTORS_MAX, 20);
  body.writeBigUInt64BE(BigInt(writeSameBlocksMax(medium)), 32);
  return body;
}

/** SBC-3, 6.5.2. */
function blockDeviceCharacteristics(): Buffer {
  const body = Buffer.alloc(60);
  body.writeUInt16BE(1, 0); // MEDIUM ROTATION RATE: does not rotate
  return body;
}

/** SBC-3, 6.5.4. */
function logicalBlockProvisioning(): Buffer {
  const LBPU = 0x80; // UNMAP
  const LBPWS = 0x40; // WRITE SAME(16) with UNMAP
  const LBPWS10 = 0x20;
  const LBPRZ = 0x04; // unmapped blocks read as zeros
  return Buffer.from([0, LBPU | LBPWS | LBPWS10 | LBPRZ, 0x02 /* thin */, 0]);
}

/** REPORT LUNS (SPC-4, 6.33): one unit, number 0. */
export function reportLuns(_unit: LogicalUnit, cdb: Buffer): Task {
  const allocationOctets = cdb.readUInt32BE(6);
  if (cdb.readUInt8(2) > 2 || allocationOctets < 16) {
    return new FailedTask(SENSE.invalidFieldInCommand);
  }
  const answer = Buffer.alloc(16);
  answer.writeUInt32BE(8, 0);
  return new AnswerTask(answer, allocationOctets);
}

const padded = (text: string, octets: number) => text.padEnd(octets, ' ');
