/** `virtual:disk`: a USB disk in memory or in an image file. */
import { createHash, randomBytes } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { UserError } from '../../../errors.ts';
import { type DeviceDefinition, defineDevice } from '../definition.ts';
import { defineKind } from '../kind.ts';
import { type Backing, MemoryBacking, PAGE_OCTETS } from './backing.ts';
import { BULK_IN, BULK_OUT, Disk, REQUEST } from './disk.ts';
import { DISKS_MEMORY } from './disk-memory.ts';
import { openImage } from './file-backing.ts';
import { Medium } from './medium.ts';
import { type Identity, LogicalUnit } from './scsi.ts';

/** pid.codes' identifiers for devices that are not for sale. */
const VENDOR_ID = 0x1209;
const PRODUCT_ID = 0x0007;

const BLOCK_OCTETS = [512, 4096] as const;
const MAX_PACKET_OCTETS = { high: 512, super: 1024 } as const;

type DiskSpeed = keyof typeof MAX_PACKET_OCTETS;

export interface DiskOptions {
  readonly backing: Backing;
  readonly blockOctets: number;
  readonly speed: DiskSpeed;
  readonly identity: Identity;
}

/** A disk on any backing. It owns the backing and closes it when it is disposed of. */
export function defineDisk(options: DiskOptions): DeviceDefinition<Disk> {
  const { identity, speed } = options;
  const maxPacketOctets = MAX_PACKET_OCTETS[speed];
  const onInterface = { type: 'class', recipient: 'interface', index: 0 } as const;
  return defineDevice<Disk>({
    vendorId: VENDOR_ID,
    productId: PRODUCT_ID,
    speed,
    strings: {
      manufacturer: identity.vendor,
      product: identity.product,
      serialNumber: identity.serial,
    },
    state: (bus) => {
      const medium = new Medium(options.backing, options.blockOctets);
      return new Disk(bus, new LogicalUnit(medium, identity), maxPacketOctets);
    },
    configurations: [
      {
        maxPowerMilliamps: 100,
        interfaces: [
          {
            class: 0x08, // mass storage
            subclass: 0x06, // SCSI transparent command set
            protocol: 0x50, // Bulk-Only Transport
            endpoints: [
              {
                address: BULK_IN,
                type: 'bulk',
                maxPacketOctets,
                onIn: (disk, octetsMax) => disk.onIn(octetsMax),
              },
              {
                address: BULK_OUT,
                type: 'bulk',
                maxPacketOctets,
                onOut: (disk, octets) => disk.onOut(octets),
              },
            ],
          },
        ],
      },
    ],
    onControl: [
      {
        ...onInterface,
        direction: 'out',
        request: REQUEST.massStorageReset,
        answer: (disk, setup) => disk.onMassStorageReset(setup),
      },
      {
        ...onInterface,
        direction: 'in',
        request: REQUEST.getMaxLun,
        answer: (disk, setup) => disk.onGetMaxLun(setup),
      },
    ],
    onReset: (disk) => disk.reset(),
    onInterface: (disk) => disk.reset(),
    onClearHalt: (disk) => disk.onClearHalt(),
    onRelease: (disk) => disk.release(),
    onDispose: (disk) => disk.dispose(),
  });
}

/** The options of the kind, after parsing. */
export interface DiskKindOptions {
  readonly size?: number;
  readonly memory?: number;
  readonly file?: string;
  readonly readonly?: true;
  readonly serial?: string;
  readonly vendor?: string;
  readonly product?: string;
  readonly blocksize?: number;
  readonly speed?: string;
}

function define(options: DiskKindOptions): DeviceDefinition<Disk> {
  // All that can be wrong with the words comes before an image is opened or created.
  const blockOctets = blockOctetsOf(options.blocksize ?? 512);
  const speed = speedOf(options.speed ?? 'high');
  const vendor = fieldOf('vendor', options.vendor ?? 'urbgate', 8);
  const product = fieldOf('product', options.product ?? 'Virtual Disk', 16);
  const given = options.serial === undefined ? null : fieldOf('serial', options.serial, 32);
  const backing = backingOf(options, blockOctets);
  const serial = given ?? defaultSerial(options.file);
  const identity = { vendor, product, revision: '1.0', serial };
  return defineDisk({ backing, blockOctets, speed, identity });
}

function blockOctetsOf(octets: number): number {
  if ((BLOCK_OCTETS as readonly number[]).includes(octets)) return octets;
  throw new UserError(
    `Cannot use block size ${octets}: expected one of ${BLOCK_OCTETS.join(', ')} octets`,
  );
}

function speedOf(speed: string): DiskSpeed {
  if (speed === 'high' || speed === 'super') return speed;
  throw new UserError(`Cannot use disk speed "${speed}": expected high or super`);
}

/** INQUIRY fields and USB strings are printable ASCII (SPC-4, 4.3.1). */
function fieldOf(name: string, text: string, charactersMax: number): string {
  if (text.length <= charactersMax && /^[!-~]([ -~]*[!-~])?$/.test(text)) return text;
  throw new UserError(
    `Cannot use disk ${name} "${text}": expected 1 to ${charactersMax} ASCII characters`,
  );
}

function backingOf(options: DiskKindOptions, blockOctets: number): Backing {
  const { size, memory, file, readonly = false } = options;
  if (size !== undefined) checkSize(size, blockOctets);
  if (memory !== undefined) checkMemory(memory, file);
  if (file !== undefined) {
    return openImage(file, {
      readonly,
      blockOctets,
      ...(size === undefined ? {} : { octets: size }),
    });
  }
  if (size === undefined) {
    throw new UserError(
      'Cannot make a disk: neither size nor file is given, expected size=64MiB or file=PATH',
    );
  }
  return new MemoryBacking(size, {
    readonly,
    ...(memory !== undefined && { bytesMax: memory }),
  });
}

function checkMemory(memory: number, file: string | undefined): void {
  if (file !== undefined) {
    throw new UserError(
      'Cannot limit the memory of a disk with file: it is in the file, expected memory= without file=',
    );
  }
  const most = DISKS_MEMORY.bytesMax;
  if (memory >= PAGE_OCTETS && memory <= most) return;
  throw new UserError(
    `Cannot make a disk that occupies up to ${memory} bytes of memory: expected ${PAGE_OCTETS} to ${most}, ` +
      'which is half of what this machine has, for all disks together',
  );
}

function checkSize(size: number, blockOctets: number): void {
  if (Number.isSafeInteger(size) && size > 0 && size % blockOctets === 0) return;
  throw new UserError(
    `Cannot make a disk of ${size} octets: expected a multiple of the block size, ${blockOctets}`,
  );
}

/**
 * BOT 4.1.1 wants a serial number of at least twelve digits 0-9, A-F, so that hosts know the disk
 * again. An image keeps its number wherever it is attached; a disk in memory is a new one each time.
 */
function defaultSerial(file: string | undefined): string {
  const octets =
    file === undefined
      ? randomBytes(8)
      : createHash('sha256').update(realpathSync(file)).digest().subarray(0, 8);
  return octets.toString('hex').toUpperCase();
}

export const disk = defineKind({
  name: 'disk',
  summary: 'USB mass storage disk in memory or in an image file',
  options: {
    size: {
      type: 'size',
      help: 'size of a disk in memory (sparse: see memory), or of an image file to be created',
    },
    memory: {
      type: 'size',
      help: "most memory that a disk in memory may occupy (default: its size); all of them together half of the machine's",
    },
    file: { type: 'file', help: 'image file or block device; alone, it must exist' },
    readonly: { type: 'flag', help: 'write-protect the disk' },
    serial: { type: 'text', help: 'serial number (default: from the file name, or random)' },
    vendor: { type: 'text', help: 'vendor shown to the host, up to 8 characters' },
    product: { type: 'text', help: 'product shown to the host, up to 16 characters' },
    blocksize: { type: 'count', help: 'octets in a logical block, 512 (default) or 4096' },
    speed: { type: 'text', help: 'high (default) or super' },
  },
  define,
});
