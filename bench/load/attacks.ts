/**
 * What one hostile client of `fairness.ts` does. An attack is commands that are written as fast as the
 * gateway takes them; replies are read and dropped. Each has a device of its own, which nobody else uses.
 */
import { CBW, CBW_SIGNATURE } from '../../src/core/devices/virtual/disk/bot.ts';
import { type Script, type Submit, setupPacket } from './raw-client.ts';

export interface Attack {
  readonly title: string;
  /** Spec of the device, less its bus id. DIRECTORY is replaced by a temporary one. */
  readonly device: string;
  /** `script`: one client that writes these; `connections`: see attacker.ts. */
  readonly how: 'script' | 'device-list' | 'imports' | 'close' | 'ring';
  /** Written once, after the import. */
  readonly begin?: (script: Script) => void;
  /** Written again and again. */
  readonly repeat?: (script: Script) => void;
  /** The first number of what is written again and again. Default: behind `begin`. */
  readonly repeatFrom?: number;
  /** For the ring: submitted again and again. */
  readonly urbs?: readonly Submit[];
}

/** Of the gateway; see core/limits.ts. */
const URBS_MAX = 4096;

const GET_DESCRIPTOR: Submit = {
  endpoint: 0,
  in: true,
  length: 18,
  setup: setupPacket(0x80, 6, 0x0100, 0, 18),
};

function request(type: number, code: number, value: number, index: number): Submit {
  return { endpoint: 0, in: false, setup: setupPacket(type, code, value, index, 0) };
}
const SET_CONFIGURATION = request(0, 9, 1, 0);
const setInterface = (number: number, alternate: number) => request(1, 11, alternate, number);
const clearHalt = (address: number) => request(2, 1, 0, address);

function times(count: number, act: (n: number) => void): void {
  for (let n = 0; n < count; n++) act(n);
}

const configure = (script: Script) => {
  script.submit(SET_CONFIGURATION);
};
const alternate1 = (script: Script) => {
  script.submit(SET_CONFIGURATION);
  script.submit(setInterface(0, 1));
};

/** The URBs of one SCSI command: its command block, its data if it has any, its status. */
function scsiUrbs(cdb: Buffer, dataOut?: Buffer, dataInBytes = 0): Submit[] {
  const command = Buffer.alloc(16);
  cdb.copy(command);
  const wrapper = CBW.write({
    signature: CBW_SIGNATURE,
    tag: 1,
    dataOctets: dataOut?.length ?? dataInBytes,
    flags: dataOut === undefined ? 0x80 : 0,
    unit: 0,
    commandOctets: 16,
    command,
  });
  const urbs: Submit[] = [{ endpoint: 2, in: false, data: wrapper }];
  if (dataOut !== undefined) urbs.push({ endpoint: 2, in: false, data: dataOut });
  else if (dataInBytes > 0) urbs.push({ endpoint: 1, in: true, length: dataInBytes });
  return [...urbs, { endpoint: 1, in: true, length: 13 }];
}

function scsi(script: Script, cdb: Buffer, dataOut?: Buffer, dataInBytes = 0): void {
  for (const urb of scsiUrbs(cdb, dataOut, dataInBytes)) script.submit(urb);
}

/** A 16-byte command block: operation code, flags, block address, count. */
function cdb16(code: number, flags: number, block: number, blocks: number): Buffer {
  const cdb = Buffer.alloc(16);
  cdb[0] = code;
  cdb[1] = flags;
  cdb.writeUInt32BE(block, 6);
  cdb.writeUInt32BE(blocks, 10);
  return cdb;
}

const BLOCK = Buffer.alloc(512, 0x5a);
const WRITE_SAME_BLOCKS = (32 << 20) / 512;

function unmapCommand(): [Buffer, Buffer] {
  const ranges = 256;
  const list = Buffer.alloc(8 + 16 * ranges);
  list.writeUInt16BE(list.length - 2, 0);
  list.writeUInt16BE(16 * ranges, 2);
  times(ranges, (n) => {
    list.writeUInt32BE(n * 16384, 8 + 16 * n + 4);
    list.writeUInt32BE(16384, 8 + 16 * n + 8);
  });
  const cdb = Buffer.alloc(16);
  cdb[0] = 0x42;
  cdb.writeUInt16BE(list.length, 7);
  return [cdb, list];
}

const MEMORY_DISK = 'virtual:disk,size=64MiB';
const FILE_DISK = 'virtual:disk,file=DIRECTORY/image,size=256MiB';
const SOURCE_SINK = 'virtual:source-sink';
/** Its bulk IN endpoint holds what is submitted. */
const SLOW_SOURCE = 'virtual:source-sink,delay=60000';

const bulkIn = (length: number): Submit => ({ endpoint: 1, in: true, length });
const bulkOut = (length: number): Submit => ({
  endpoint: 2,
  in: false,
  data: Buffer.alloc(length),
});

export const ATTACKS: Readonly<Record<string, Attack>> = {
  'write-same': {
    title: 'WRITE SAME of 32 MiB, memory disk',
    device: MEMORY_DISK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(64, () => scsi(script, cdb16(0x93, 0, 0, WRITE_SAME_BLOCKS), BLOCK)),
  },
  'write-same-small': {
    title: 'WRITE SAME of 1 MiB, memory disk',
    device: MEMORY_DISK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(256, () => scsi(script, cdb16(0x93, 0, 0, 2048), BLOCK)),
  },
  'write-same-file': {
    title: 'WRITE SAME of 32 MiB, file',
    device: FILE_DISK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(64, () => scsi(script, cdb16(0x93, 0, 0, WRITE_SAME_BLOCKS), BLOCK)),
  },
  unmap: {
    title: 'UNMAP of 256 ranges, 2 GiB in all, memory disk',
    device: 'virtual:disk,size=4GiB',
    how: 'script',
    begin: (script) => {
      configure(script);
      times(64, (n) => {
        const cdb = cdb16(0x93, 0, n * WRITE_SAME_BLOCKS, 1);
        scsi(script, cdb, BLOCK);
      });
    },
    repeat: (script) => times(64, () => scsi(script, ...unmapCommand())),
  },
  verify: {
    title: 'VERIFY of 32 MiB, file',
    device: FILE_DISK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(64, () => scsi(script, cdb16(0x8f, 0, 0, 0xffff))),
  },
  'read-file': {
    title: 'READ of 16 MiB, file',
    device: FILE_DISK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(3, () => scsi(script, cdb16(0x88, 0, 0, 32768), undefined, 16 << 20)),
  },
  'read-memory': {
    title: 'READ of 16 MiB, memory disk',
    device: MEMORY_DISK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(3, () => scsi(script, cdb16(0x88, 0, 0, 32768), undefined, 16 << 20)),
  },
  'write-memory': {
    title: 'WRITE of 16 MiB, memory disk',
    device: 'virtual:disk,size=4GiB',
    how: 'script',
    begin: configure,
    repeat: (script) => {
      const data = Buffer.alloc(16 << 20, 0x5a);
      times(3, (n) => scsi(script, cdb16(0x8a, 0, n * 32768, 32768), data));
    },
  },
  synchronize: {
    title: 'SYNCHRONIZE CACHE, file',
    device: FILE_DISK,
    how: 'script',
    begin: configure,
    repeat: (script) =>
      times(64, () => {
        scsi(script, cdb16(0x8a, 0, 0, 1), BLOCK);
        scsi(script, cdb16(0x91, 0, 0, 0));
      }),
  },
  'early-unlinks': {
    title: 'unlinks before their URBs, then URBs',
    device: SOURCE_SINK,
    how: 'script',
    begin: (script) => {
      configure(script);
      script.skip(0x3000_0000);
      times(URBS_MAX, (n) => script.unlink(0x2000_0000 + n));
    },
    repeatFrom: 2,
    repeat: (script) => times(4096, () => script.submit(GET_DESCRIPTOR)),
  },
  isochronous: {
    title: 'isochronous IN, 16 MiB a URB',
    device: SOURCE_SINK,
    how: 'script',
    begin: alternate1,
    repeat: (script) => {
      const packets = new Array<number>(16).fill(1 << 20);
      times(512, () => script.submit({ endpoint: 3, in: true, length: 16 << 20, packets }));
    },
  },
  'isochronous-packets': {
    title: 'isochronous IN, 1024 packets a URB',
    device: SOURCE_SINK,
    how: 'script',
    begin: alternate1,
    repeat: (script) => {
      const packets = new Array<number>(1024).fill(64);
      times(64, () => script.submit({ endpoint: 3, in: true, length: 65536, packets }));
    },
  },
  'unlink-storm': {
    title: '4096 URBs and 4096 unlinks, newest first',
    device: SLOW_SOURCE,
    how: 'script',
    begin: configure,
    repeat: (script) => {
      const urbs: number[] = [];
      times(URBS_MAX, () => urbs.push(script.submit(bulkIn(64))));
      for (const urb of urbs.reverse()) script.unlink(urb);
    },
  },
  'unlink-oldest': {
    title: '4096 URBs and 4096 unlinks, oldest first but one',
    device: SLOW_SOURCE,
    how: 'script',
    begin: configure,
    repeat: (script) => {
      const urbs: number[] = [];
      times(URBS_MAX, () => urbs.push(script.submit(bulkIn(64))));
      for (const urb of urbs.slice(1)) script.unlink(urb);
      script.unlink(urbs[0] as number);
    },
  },
  'unlink-every-other': {
    title: '4096 URBs and unlinks of every other, cleared between',
    device: SLOW_SOURCE,
    how: 'script',
    begin: configure,
    repeat: (script) => {
      const urbs: number[] = [];
      times(URBS_MAX - 1, () => urbs.push(script.submit(bulkIn(64))));
      for (const urb of urbs.filter((_, n) => n % 2 === 1)) {
        script.unlink(urb);
        script.submit(clearHalt(0x81));
      }
      for (const urb of urbs.reverse()) script.unlink(urb);
    },
  },
  'submit-unlink': {
    title: 'a URB and its unlink, behind 4000 URBs',
    device: SLOW_SOURCE,
    how: 'script',
    begin: (script) => {
      configure(script);
      times(4000, () => script.submit(bulkIn(64)));
    },
    repeat: (script) => times(2048, () => script.unlink(script.submit(bulkIn(64)))),
  },
  'clear-halt': {
    title: 'clear-halt and set-interface, behind 4000 URBs',
    device: SLOW_SOURCE,
    how: 'script',
    begin: (script) => {
      alternate1(script);
      times(4000, (n) => script.submit({ ...bulkIn(64), endpoint: n % 2 === 0 ? 1 : 5 }));
    },
    repeat: (script) =>
      times(512, () => {
        script.submit(clearHalt(0x81));
        script.submit(clearHalt(0x85));
        script.submit(setInterface(0, 1));
      }),
  },
  'hold-restart': {
    title: 'holds of 2000 URBs that are cleared',
    device: 'virtual:source-sink,short=512,end=stall',
    how: 'script',
    begin: configure,
    repeat: (script) => {
      times(2000, () => script.submit(bulkIn(512)));
      script.submit(bulkIn(4096));
      times(2000, () => script.submit(bulkIn(512)));
      script.submit(clearHalt(0x81));
    },
  },
  control: {
    title: 'GET_DESCRIPTOR, all at once',
    device: SOURCE_SINK,
    how: 'script',
    repeat: (script) => times(5000, () => script.submit(GET_DESCRIPTOR)),
  },
  'bulk-in-large': {
    title: 'bulk IN of 16 MiB',
    device: SOURCE_SINK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(16, () => script.submit(bulkIn(16 << 20))),
  },
  'bulk-in-stamped': {
    title: 'bulk IN of 16 MiB, stamped',
    device: 'virtual:source-sink,stamp,pattern=1',
    how: 'script',
    begin: configure,
    repeat: (script) => times(16, () => script.submit(bulkIn(16 << 20))),
  },
  'bulk-in-many': {
    title: 'bulk IN of 8 KiB, thousands',
    device: SOURCE_SINK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(4096, () => script.submit(bulkIn(8192))),
  },
  'bulk-out-large': {
    title: 'bulk OUT of 4 MiB, checked',
    device: SOURCE_SINK,
    how: 'script',
    begin: configure,
    repeat: (script) => times(2, () => script.submit(bulkOut(4 << 20))),
  },
  refused: {
    title: 'URBs to no endpoint',
    device: SOURCE_SINK,
    how: 'script',
    repeat: (script) => times(5000, () => script.submit({ endpoint: 9, in: true, length: 64 })),
  },
  'refused-isochronous': {
    title: 'isochronous URBs that are refused, 1024 packets each',
    device: SOURCE_SINK,
    how: 'script',
    begin: alternate1,
    repeat: (script) => {
      const packets = new Array<number>(1024).fill(16 << 20);
      times(64, () => script.submit({ endpoint: 3, in: true, length: 16 << 20, packets }));
    },
  },
  audio: {
    title: 'audio OUT into a WAV file',
    device: 'virtual:audio,out=DIRECTORY/out.wav',
    how: 'script',
    begin: (script) => {
      script.submit(SET_CONFIGURATION);
      script.submit(setInterface(1, 1));
    },
    repeat: (script) => {
      const packets = new Array<number>(1024).fill(192);
      const data = Buffer.alloc(1024 * 192);
      times(4, () => script.submit({ endpoint: 1, in: false, data, packets }));
    },
  },
  serial: {
    title: 'serial echo of 64 KiB',
    device: 'virtual:serial',
    how: 'script',
    begin: configure,
    repeat: (script) =>
      times(8, () => {
        script.submit(bulkOut(65536));
        times(8, () => script.submit(bulkIn(8192)));
      }),
  },
  leds: {
    title: 'keyboard LEDs on and off, into a file',
    device: 'virtual:keyboard,leds=DIRECTORY/leds',
    how: 'script',
    begin: configure,
    repeat: (script) =>
      times(4096, (n) => {
        const data = Buffer.from([n & 0x1f]);
        script.submit({ endpoint: 0, in: false, data, setup: setupPacket(0x21, 9, 0x200, 0, 1) });
      }),
  },
  'device-list': {
    title: 'device lists, 16 clients',
    device: SOURCE_SINK,
    how: 'device-list',
  },
  imports: {
    title: 'imports of what is not there, 16 clients',
    device: SOURCE_SINK,
    how: 'imports',
  },
  close: {
    title: 'connections that end with 4096 URBs',
    device: SLOW_SOURCE,
    how: 'close',
    repeat: (script) => {
      configure(script);
      times(URBS_MAX - 1, () => script.submit(bulkIn(64)));
    },
  },
  'ring-large': {
    title: 'ring: bulk IN of 60 KiB',
    device: SOURCE_SINK,
    how: 'ring',
    urbs: [{ endpoint: 1, in: true, length: 60 << 10 }],
  },
  'ring-write-same': {
    title: 'ring: WRITE SAME of 32 MiB, memory disk',
    device: MEMORY_DISK,
    how: 'ring',
    urbs: scsiUrbs(cdb16(0x93, 0, 0, WRITE_SAME_BLOCKS), BLOCK),
  },
};
