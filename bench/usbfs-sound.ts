/**
 * Isochronous transfers over USB/IP: 48 kHz stereo to a sound card, through urbgate's usbfs and
 * through the kernel's own usbip-host, and how many frames have not come out of it.
 *
 *     node dist/bench/usbfs-sound.js [--seconds 20]
 *
 * Servers, client (vhci) and driver (snd-usb-audio) are in one emulated guest, as in usbfs.ts. QEMU
 * writes what each card plays to a file of its own.
 */
import { rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startGatewayInGuest } from '../interop/lab/gateway.ts';
import { bootGuest } from '../interop/lab/guest.ts';
import { exportByKernel } from '../interop/lab/kernel-stub.ts';
import { findDevice } from '../interop/lab/local-gadget.ts';
import { QemuMonitor } from '../interop/lab/qemu-monitor.ts';
import { FRAMES_PER_SECOND, heard, play, soundCard } from '../interop/lab/sound.ts';
import { attach, detachAll, loadVhci } from '../interop/lab/usbip.ts';
import { runMain } from './load/processes.ts';

const SYSTEMS = ['KERNEL', 'URBGATE'] as const;
const ATTACH_SECONDS_MAX = 60;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { seconds: { type: 'string', default: '20' } } });
  const count = Number(values.seconds) * FRAMES_PER_SECOND;
  const monitor = new QemuMonitor();
  const fileOf = (system: string) => join(monitor.folder, `${system}.wav`);
  const before = loadavg()[0]?.toFixed(1);
  const guest = await bootGuest({
    name: 'bench-usbfs-sound',
    processors: 2,
    qemuArguments: [
      ...monitor.qemuArguments,
      ...['-device', 'qemu-xhci,id=xhci'],
      ...SYSTEMS.flatMap((system) => soundCard(system, fileOf(system))),
    ],
  });
  try {
    await monitor.open();
    await guest.succeed('modprobe -a xhci-pci', { timeoutSeconds: ATTACH_SECONDS_MAX });
    await loadVhci(guest);
    const cards = await Promise.all(SYSTEMS.map((system) => findDevice(guest, system, 60)));
    const [kernelCard, gatewayCard] = cards as [(typeof cards)[0], (typeof cards)[0]];
    const usbipd = await exportByKernel(guest, kernelCard);
    const gateway = await startGatewayInGuest(guest, {
      exports: [`usb:${gatewayCard.busid}`],
      arguments: ['--control', 'none'],
      startTimeoutSeconds: 150,
    });
    await gateway.process.printed(/Exporting .*\n/, ATTACH_SECONDS_MAX);
    await guest.succeed('modprobe snd-usb-audio', { timeoutSeconds: ATTACH_SECONDS_MAX });
    const served = { address: '127.0.0.1', port: gateway.port };
    const devices = [
      await attach(guest, kernelCard.busid, usbipd, ATTACH_SECONDS_MAX),
      await attach(guest, gatewayCard.busid, served, ATTACH_SECONDS_MAX),
    ];
    for (const device of devices) await play(guest, device, count);
    await detachAll(guest);
    await gateway.stop();
    process.stdout.write('| server | frames played | heard | lost | jumps |\n');
    process.stdout.write('| --- | --- | --- | --- | --- |\n');
    for (const system of SYSTEMS) {
      await monitor.command('device_del', { id: system }).catch(() => {});
      const { frames, jumps } = heard(fileOf(system));
      const cells = [system.toLowerCase(), count, frames, count - frames, jumps];
      process.stdout.write(`| ${cells.join(' | ')} |\n`);
    }
    process.stdout.write(`load average ${before} before, ${loadavg()[0]?.toFixed(1)} after\n`);
  } finally {
    monitor.close();
    await guest.kill();
    rmSync(monitor.folder, { recursive: true, force: true });
  }
}

await runMain(main);
