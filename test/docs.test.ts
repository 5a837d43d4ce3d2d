/**
 * Parts of the documentation that are printed from the code. `UPDATE_DOCS=1 npm run unit -- --grep
 * docs/` writes them.
 */
import { strict as assert } from 'node:assert';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkoutFolder } from '../interop/lab/paths.ts';
import { TRANSITIONS, type Transition } from '../src/stall/endpoint-queue.ts';
import { RETRY_TRANSITIONS } from '../src/stall/retry-queue.ts';

const FILE = join(checkoutFolder(), 'docs', 'stall-protocol.md');

function diagram<P extends string>(table: readonly Transition<P>[]): string {
  const lines = table.map(({ from, to, when }) => `    ${from} --> ${to}: ${when}`);
  return ['```mermaid', 'stateDiagram-v2', '    [*] --> running', ...lines, '```', ''].join('\n');
}

const PRINTED = [
  ['gateway', diagram(TRANSITIONS)],
  ['front end', diagram(RETRY_TRANSITIONS)],
] as const;

describe('docs/stall-protocol.md', () => {
  for (const [name, wanted] of PRINTED) {
    it(`has the state diagram of the ${name} as the code has it`, () => {
      const text = readFileSync(FILE, 'utf8');
      const part = new RegExp(`(<!-- diagram: ${name} -->\\n)([\\s\\S]*?)(<!-- end -->)`);
      const found = part.exec(text);
      assert(found !== null, `the diagram of the ${name} is absent`);
      if (process.env.UPDATE_DOCS !== undefined) {
        writeFileSync(
          FILE,
          text.replace(part, (_, head, __, end) => head + wanted + end),
        );
      } else {
        assert.equal(found[2], wanted);
      }
    });
  }
});
