/** npm run stall-demo: what moves after an error, on three systems side by side. */
import { build, install, run } from './tools.mjs';

if (!install() || !build()) process.exit(1);
process.exit(
  run(process.execPath, ['dist/interop/stall-demo.js', ...process.argv.slice(2)]) ? 0 : 1,
);
