/**
 * The Bulk-Only Transport state machine: what crosses the bus around a SCSI command, and when.
 *
 * Source: USB Mass Storage Class, Bulk-Only Transport 1.0 ("BOT"). A command is three stages: a
 * command block wrapper (CBW) on bulk OUT, data in one direction, a command status wrapper (CSW) on
 * bulk IN. The host says in the CBW how many octets it expects to move, and which way; the device
 * has its own intention, from the command block. The data stage follows the host's number whatever
 * the device intends, because that is what the host has buffers for. BOT 6.7 lists the thirteen
 * ways in which the two can meet (H host, D device; n nothing, i in, o out), with what we do:
 *
 *    1 Hn = Dn    no data, CSW                 8 Hi <> Do   fill or stall IN, phase error
 *    2 Hn < Di    no data, phase error         9 Ho > Dn    discard or stall OUT, residue
 *    3 Hn < Do    no data, phase error        10 Ho <> Di   discard or stall OUT, phase error
 *    4 Hi > Dn    fill or stall IN, residue   11 Ho > Do    data, discard or stall OUT, residue
 *    5 Hi > Di    data, fill or stall IN,     12 Ho = Do    data, CSW
 *                 residue                     13 Ho < Do    discard or stall OUT, phase error
 *    6 Hi = Di    data, CSW
 *    7 Hi < Di    fill or stall IN, phase error
 *
 * A command that ends in a phase error is not carried out at all: host and device do not agree on
 * what it is, and a write is no place for guesses. The host resets the device then (BOT 5.3.3.1).
 *
 * "Fill or stall": when the device has less to say than the host expects, BOT 6.7.2 lets it pad the
 * data or stall the pipe; a short packet alone, which many flash drives send, is not in the
 * specification. We pad up to `SLACK_OCTETS_MAX` and stall beyond. Short answers are common (a
 * MODE SENSE of 192 octets, a REQUEST SENSE of 96), describe their own length, and are read by
 * clients across a network, where a stall costs two more round trips and meets USB/IP clients that
 * handle stalls badly (usbip-win2#160). The residue in the CSW tells the host where the data ended;
 * QEMU's usb-storage has answered Linux, Windows and macOS this way for years. A long read that
 * fails is rare: it stalls, as real disks do, rather than send a megabyte of zeros. Surplus data
 * from the host is discarded or stalled by the same rule (BOT 6.7.3).
 *
 * A CBW that is not valid, or not meaningful, breaks the machine: both pipes stall, again after
 * each clear-halt, until Reset Recovery (BOT 6.6.1, 5.3.4). For a CBW that is valid but not
 * meaningful the specification names no answer; a host that sends one has lost its place too.
 *
 * The machine is pure: `step` takes what happened and returns the next state. Moving the data and
 * running the command is disk.ts. What `NEXT` cannot say is which of several successors is taken:
 * that follows from the counters alone, in `stageOf`.
 */
import { strict as assert } from 'node:assert';
import { layout, octets, u8, u32le } from '../../../layout.ts';

/** Command block wrapper (BOT 5.1), little-endian. */
export const CBW = layout('command block wrapper', 31, {
  signature: u32le,
  tag: u32le,
  /** dCBWDataTransferLength */
  dataOctets: u32le,
  /** bmCBWFlags: bit 7 is the direction, 1 for IN; the others are zero. */
  flags: u8,
  /** bCBWLUN, in bits 3..0. */
  unit: u8,
  /** bCBWCBLength, in bits 4..0. */
  commandOctets: u8,
  /** CBWCB */
  command: octets(16),
});

/** Command status wrapper (BOT 5.2), little-endian. */
export const CSW = layout('command status wrapper', 13, {
  signature: u32le,
  tag: u32le,
  /** dCSWDataResidue */
  residueOctets: u32le,
  status: u8,
});

export const CBW_SIGNATURE = 0x43425355;
export const CSW_SIGNATURE = 0x53425355;

/** bCSWStatus (BOT, table 5.3). */
export const CSW_STATUS = { passed: 0, failed: 1, phaseError: 2 } as const;

/** Largest mismatch that is padded or discarded; what is larger stalls. */
export const SLACK_OCTETS_MAX = 64 << 10;

export type Direction = 'none' | 'in' | 'out';

/** What one side means to do in the data stage. `none` and 0 octets go together. */
export interface DataStage {
  readonly direction: Direction;
  readonly octets: number;
}

/** A valid and meaningful command block wrapper. */
export interface Command {
  readonly tag: number;
  /** What the host expects (dCBWDataTransferLength and the direction bit). */
  readonly host: DataStage;
  /** The command block, bCBWCBLength octets; a copy. */
  readonly block: Buffer;
}

/**
 * Reads a CBW for a device with a single logical unit.
 *
 * @returns null if it is not valid (BOT 6.2.1) or not meaningful (6.2.2).
 */
export function parseCommand(packet: Buffer): Command | null {
  if (packet.length !== CBW.octets) return null;
  const cbw = CBW.read(packet);
  if (cbw.signature !== CBW_SIGNATURE) return null;
  if ((cbw.flags & 0x7f) !== 0 || cbw.unit !== 0) return null;
  if (cbw.commandOctets < 1 || cbw.commandOctets > 16) return null;
  // The direction bit means nothing when there is no data (BOT 5.1).
  const direction = cbw.dataOctets === 0 ? 'none' : (cbw.flags & 0x80) !== 0 ? 'in' : 'out';
  return {
    tag: cbw.tag,
    host: { direction, octets: cbw.dataOctets },
    block: Buffer.from(cbw.command.subarray(0, cbw.commandOctets)),
  };
}

export type Stage =
  | 'command' // waits for a CBW
  | 'data-in' // sends what the command answers
  | 'data-out' // takes what the command wants
  | 'fill' // sends zeros up to the host's length
  | 'discard' // takes and drops data up to the host's length
  | 'stall-in' // is about to stall bulk IN
  | 'stall-out' // is about to stall bulk OUT
  | 'status' // sends the CSW when the command has ended
  | 'broken'; // waits for Reset Recovery

export type BotEvent =
  /** A CBW came, and `device` is what its command block means to move. */
  | { readonly type: 'begin'; readonly command: Command; readonly device: DataStage }
  /** A CBW came that is not valid or not meaningful. */
  | { readonly type: 'invalid' }
  /** Octets of the data stage crossed the bus. */
  | { readonly type: 'moved'; readonly octets: number }
  /** The command has failed: no more of its data will follow. */
  | { readonly type: 'failed' }
  /** The host ended its data early, with a short packet. */
  | { readonly type: 'cut' }
  /** The stall was handed to the host. */
  | { readonly type: 'stalled' }
  /** The CSW was handed to the host. */
  | { readonly type: 'reported' }
  /** Bulk-Only Mass Storage Reset (BOT 3.1), or a reset of the device. */
  | { readonly type: 'reset' };

const FILLING = ['fill', 'stall-in', 'status'] as const;
const DISCARDING = ['discard', 'stall-out', 'status'] as const;
const RESET = { reset: ['command'] } as const;

/** Event-triggered transitions. A missing entry is a bug of the caller, never of the host. */
export const NEXT: Record<Stage, Partial<Record<BotEvent['type'], readonly Stage[]>>> = {
  command: {
    begin: ['data-in', 'data-out', ...FILLING, ...DISCARDING],
    invalid: ['broken'],
    ...RESET,
  },
  'data-in': { moved: ['data-in', ...FILLING], failed: FILLING, ...RESET },
  'data-out': { moved: ['data-out', ...DISCARDING], failed: DISCARDING, cut: ['status'], ...RESET },
  fill: { moved: ['fill', 'status'], ...RESET },
  discard: { moved: ['discard', 'status'], cut: ['status'], ...RESET },
  'stall-in': { stalled: ['status'], ...RESET },
  'stall-out': { stalled: ['status'], cut: ['status'], ...RESET },
  status: { reported: ['command'], ...RESET },
  broken: { ...RESET },
};

export interface Bot {
  readonly stage: Stage;
  /** dCBWTag, to be repeated in the CSW. */
  readonly tag: number;
  readonly host: DataStage;
  /** Octets of the data stage that have crossed the bus, fill and discarded ones included. */
  readonly crossedOctets: number;
  /** Of those and the ones to come, how many belong to the command; the first ones do. */
  readonly relevantOctets: number;
  readonly phaseError: boolean;
}

export const IDLE: Bot = {
  stage: 'command',
  tag: 0,
  host: { direction: 'none', octets: 0 },
  crossedOctets: 0,
  relevantOctets: 0,
  phaseError: false,
};

/** @throws {AssertionError} if the event cannot happen in this stage. */
export function step(bot: Bot, event: BotEvent): Bot {
  const allowed = NEXT[bot.stage][event.type];
  assert(allowed !== undefined, `Cannot apply ${event.type}: the transport is at ${bot.stage}`);
  const next = apply(bot, event);
  assert(allowed.includes(next.stage), `Cannot go from ${bot.stage} to ${next.stage}`);
  return next;
}

function apply(bot: Bot, event: BotEvent): Bot {
  switch (event.type) {
    case 'begin':
      return settle(begin(event.command, event.device));
    case 'moved':
      assert(event.octets <= octetsLeft(bot));
      return settle({ ...bot, crossedOctets: bot.crossedOctets + event.octets });
    case 'failed':
      return settle({ ...bot, relevantOctets: bot.crossedOctets });
    case 'cut':
      return { ...bot, phaseError: true, stage: 'status' };
    case 'stalled':
      return { ...bot, stage: 'status' };
    case 'invalid':
      return { ...IDLE, stage: 'broken' };
    case 'reported':
    case 'reset':
      return IDLE;
  }
}

function begin({ tag, host }: Command, device: DataStage): Bot {
  // Cases 2, 3, 7, 8, 10 and 13.
  const phaseError =
    device.octets > 0 && (device.direction !== host.direction || device.octets > host.octets);
  const relevantOctets = phaseError ? 0 : device.octets;
  return { stage: 'command', tag, host, crossedOctets: 0, relevantOctets, phaseError };
}

function settle(bot: Bot): Bot {
  return { ...bot, stage: stageOf(bot) };
}

/** State-triggered: where the counters say the data stage is. */
function stageOf(bot: Bot): Stage {
  const isIn = bot.host.direction === 'in';
  if (bot.crossedOctets < bot.relevantOctets) return isIn ? 'data-in' : 'data-out';
  const slack = octetsLeft(bot);
  if (slack === 0) return 'status';
  // Fill and discard go on once begun: the slack only shrinks.
  if (slack <= SLACK_OCTETS_MAX) return isIn ? 'fill' : 'discard';
  return isIn ? 'stall-in' : 'stall-out';
}

/** Octets that the host still expects to move in the data stage. */
export function octetsLeft(bot: Bot): number {
  return bot.host.octets - bot.crossedOctets;
}

/** Octets of the command's own that are still to move. */
export function relevantLeft(bot: Bot): number {
  return Math.max(0, bot.relevantOctets - bot.crossedOctets);
}

/** The CSW that ends the command (BOT 5.2, 6.7). Hosts ignore the residue of a phase error. */
export function statusWrapper(bot: Bot, passed: boolean): Buffer {
  const done = Math.min(bot.crossedOctets, bot.relevantOctets);
  const status = passed ? CSW_STATUS.passed : CSW_STATUS.failed;
  return CSW.write({
    signature: CSW_SIGNATURE,
    tag: bot.tag,
    residueOctets: bot.host.octets - done,
    status: bot.phaseError ? CSW_STATUS.phaseError : status,
  });
}
