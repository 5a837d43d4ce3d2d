/** How options of the command line are read. */
import type { Command } from 'commander';
import { UserError } from '../core/errors.ts';

/** For an option that may be given several times. */
export function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

/** Of an option that says one thing, the first of two would be lost without a word. */
export function refuseTwice(command: Command): void {
  for (const option of command.options) {
    if (!option.required || option.variadic || option.parseArg === collect) continue;
    let given = false;
    command.on(`option:${option.name()}`, () => {
      if (given)
        throw new UserError(`Cannot run urbgate: ${option.long} is given twice, wanted once`);
      given = true;
    });
  }
}
