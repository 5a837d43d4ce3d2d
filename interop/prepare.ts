/**
 * Makes ready what the interop tests need: packages, kernels, Xen, compiled helpers, initramfs.
 *
 * `node dist/interop/prepare.js` exits with 0 when all is there, and otherwise with 1 and the
 * reason. The first run downloads some 500 MB into the cache; later ones take a second. What unit
 * tests can use of it is named in dist/environment.json.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { guestTools } from './lab/guest-tools.ts';
import { labImages } from './lab/images.ts';
import { testusbProgram } from './lab/kernel.ts';
import { cacheFolder, checkoutFolder } from './lab/paths.ts';
import { prepareXen } from './lab/xen-domain.ts';
import { xenFiles } from './lab/xen-files.ts';

try {
  const { kernel } = await labImages();
  await testusbProgram();
  await prepareXen();
  await guestTools();
  const environment = { URBGATE_XEN: (await xenFiles()).folder };
  writeFileSync(join(checkoutFolder(), 'dist', 'environment.json'), JSON.stringify(environment));
  console.log(`Guests run Linux ${kernel.release} (${kernel.version}) from ${cacheFolder()}`);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
