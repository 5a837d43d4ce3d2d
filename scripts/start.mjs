/** npm start: install, build, and serve the demonstration devices. Arguments go to `serve`. */
import { spawn } from 'node:child_process';
import { build, install } from './tools.mjs';

if (!install() || !build()) process.exit(1);
const gateway = spawn(
  process.execPath,
  ['dist/src/cli/main.js', 'serve', '--demo', ...process.argv.slice(2)],
  { stdio: 'inherit' },
);
// A terminal's Ctrl-C reaches both; the gateway decides when to end.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => gateway.kill('SIGTERM'));
gateway.on('exit', (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
