/**
 * Plays to a USB sound card of QEMU's in a guest, and looks at what has come out of it.
 *
 * On the left is a ramp, so that a packet that is lost shows; on the right what tells a frame from the
 * silence that QEMU puts in when the guest is late.
 */
import { readFileSync } from 'node:fs';
import type { Guest } from './guest.ts';
import type { GuestUsbDevice } from './local-gadget.ts';

export const FRAMES_PER_SECOND = 48_000;
const FRAME_OCTETS = 4;
const RAMP = 16_000;
const WAV_HEADER_OCTETS = 44;
/** What the card has taken, QEMU writes to its file in time, and not at all once it is unplugged. */
const DRAIN_SECONDS = 2;

/** QEMU's arguments for a card on the controller `xhci`; what it plays goes to a file. */
export function soundCard(serial: string, file: string): string[] {
  return [
    ...['-audiodev', `wav,id=audio${serial},out.frequency=${FRAMES_PER_SECOND},path=${file}`],
    ...['-device', `usb-audio,bus=xhci.0,id=${serial},audiodev=audio${serial},serial=${serial}`],
  ];
}

/** Plays so many frames; the driver is snd-usb-audio. */
export async function play(guest: Guest, device: GuestUsbDevice, count: number): Promise<void> {
  const frames = Buffer.alloc(count * FRAME_OCTETS);
  for (let at = 0; at < count; at++) {
    frames.writeInt16LE(at % RAMP, at * FRAME_OCTETS);
    frames.writeInt16LE(RAMP, at * FRAME_OCTETS + 2);
  }
  await guest.succeed('cat > /run/frames', { input: frames, timeoutSeconds: 120 });
  await guest.succeed(
    `for try in $(seq 200); do
       card=$(ls -d ${device.sysfs}/*/sound/card* 2>/dev/null); n=\${card##*/card}
       [ -n "$n" ] && [ -c /dev/snd/controlC$n ] && break
       sleep 0.1
     done
     aplay -D hw:$n -t raw -f S16_LE -c 2 -r ${FRAMES_PER_SECOND} --buffer-time=2000000 /run/frames
     sleep ${DRAIN_SECONDS}`,
    { timeoutSeconds: 120 + 2 * (count / FRAMES_PER_SECOND) },
  );
}

export interface Heard {
  readonly frames: number;
  /** Places where a frame does not follow from the one before it. */
  readonly jumps: number;
}

/** What a card has played so far; it is whole when the card has been unplugged. */
export function heard(file: string): Heard {
  const whole = readFileSync(file);
  let frames = 0;
  let jumps = 0;
  let last = 0;
  for (let at = WAV_HEADER_OCTETS; at + FRAME_OCTETS <= whole.length; at += FRAME_OCTETS) {
    if (whole.readInt16LE(at + 2) === 0) continue;
    const sample = whole.readInt16LE(at);
    // QEMU turns the volume down a little: steps are 0 or 1, and one at each end of the ramp.
    const step = sample - last;
    if (frames > 0 && (step < 0 ? step > -RAMP * 0.9 : step > 2)) jumps++;
    last = sample;
    frames++;
  }
  return { frames, jumps };
}
