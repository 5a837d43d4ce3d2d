/** Runs commands one after the other for `CommandProcess`: a new process for each would take a second. */
import { runUrbgate } from '../../src/cli/program.ts';

// Each `serve` has handlers of signals; none of those that are tried here gets further.
process.setMaxListeners(0);

const written = { stdout: '', stderr: '' };
for (const name of ['stdout', 'stderr'] as const) {
  process[name].write = (text: string | Uint8Array) => {
    written[name] += text;
    return true;
  };
}

process.on('message', async ({ words, environment }: Wanted) => {
  Object.assign(written, { stdout: '', stderr: '' });
  const before = { ...process.env };
  Object.assign(process.env, environment);
  const code = await runUrbgate(words);
  for (const name of Object.keys(environment)) delete process.env[name];
  Object.assign(process.env, before);
  process.send?.({ code, ...written });
});
process.send?.('ready');

interface Wanted {
  readonly words: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}
