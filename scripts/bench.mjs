/** npm run bench: install, build, measure. Arguments go to bench/run.ts. */
import { build, install, run } from './tools.mjs';

if (!install() || !build()) process.exit(1);
process.exit(run(process.execPath, ['dist/bench/run.js', ...process.argv.slice(2)]) ? 0 : 1);
