/**
 * Makes ready what the interop tests need: packages, a kernel, compiled helpers, an initramfs.
 *
 * `node dist/interop/prepare.js` exits with 0 when all is there, and otherwise with 1 and the
 * reason. The first run downloads some 200 MB into the cache; later ones take a second.
 */

import { labImages } from './lab/images.ts';
import { testusbProgram } from './lab/kernel.ts';
import { cacheFolder } from './lab/paths.ts';

try {
  const { kernel } = await labImages();
  await testusbProgram();
  console.log(`Guests run Linux ${kernel.release} (${kernel.version}) from ${cacheFolder()}`);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
