/** Everything a guest is started from, made once and shared by the guests of a process. */

import { initramfs } from './initramfs.ts';
import { compiled, guestKernel, type Kernel, labSource } from './kernel.ts';
import { ensurePackages } from './packages.ts';

export interface LabImages {
  kernel: Kernel;
  /** Path of the initial root file system. */
  initramfs: string;
  /** Path of the compiled guest-agent.c. */
  agent: string;
  /** Path of the compiled forward.c. */
  forward: string;
  /** Path of the compiled keeper.c. */
  keeper: string;
}

let images: Promise<LabImages> | undefined;

/** Installs, downloads, compiles and packs what is not there yet. */
export function labImages(): Promise<LabImages> {
  images ??= prepare();
  return images;
}

async function prepare(): Promise<LabImages> {
  await ensurePackages();
  const kernel = await guestKernel();
  const agent = await compiled(labSource('guest-agent.c'), ['-static']);
  const forward = await compiled(labSource('forward.c'));
  const keeper = await compiled(labSource('keeper.c'));
  return { kernel, agent, forward, keeper, initramfs: await initramfs({ kernel, agent }) };
}
