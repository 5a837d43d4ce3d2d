/**
 * The `urbgate` command with all its subcommands. Exit codes: 0 done, 2 the user can put it right (one
 * sentence on stderr), 1 a bug (a stack).
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { UserError } from '../core/errors.ts';
import { printable, printableLines } from '../core/printable.ts';
import { attachCommand } from './attach.ts';
import { detachCommand } from './detach.ts';
import { exportCommand } from './export.ts';
import { kickCommand } from './kick.ts';
import { listCommand } from './list.ts';
import { refuseTwice } from './options.ts';
import { portCommand } from './port.ts';
import { serveCommand } from './serve.ts';
import { statusCommand } from './status.ts';
import { udevRuleCommand } from './udev-rule.ts';
import { unexportCommand } from './unexport.ts';
import { xenCommand } from './xen.ts';

const EXIT_BUG = 1;
const EXIT_USER = 2;

const EXAMPLES = `
Examples:
  urbgate serve --export virtual:disk,size=64MiB     a gateway with one disk
  urbgate serve --export usb:0951:1666,wait          one with a device of this machine
  urbgate list -r 192.168.1.2                        what another machine exports
  urbgate export virtual:serial                      one more device
  urbgate status                                     who has which device
  urbgate xen attach guest 1-1                       a device for a Xen guest
  urbgate attach -r 192.168.1.2 -b 1-1 --persist     use it here, and keep it
  urbgate attach --xen --persist                     use here what a Xen guest is given
  urbgate help serve                                 all about SPEC
`;

export function urbgate(): Command {
  const program = new Command('urbgate')
    .description('USB/IP-compatible gateway: exports USB devices over the network')
    .version(version())
    .addHelpText('after', EXAMPLES);
  const commands = [
    serveCommand(),
    listCommand(),
    exportCommand(),
    unexportCommand(),
    kickCommand(),
    statusCommand(),
    xenCommand(),
    udevRuleCommand(),
    attachCommand(),
    portCommand(),
    detachCommand(),
  ];
  for (const command of commands) program.addCommand(command);
  for (const command of [program, ...commands, ...commands.flatMap((one) => one.commands)]) {
    // Errors come as exceptions, to be said in one sentence below.
    command.exitOverride().configureOutput({ outputError: () => {}, writeErr: () => {} });
    refuseTwice(command);
  }
  return program;
}

/** The file lies two folders up from the sources, three from what is built of them. */
function version(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).version;
}

/** Says what went wrong; returns the exit code. */
export function complain(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0; // --help, --version
    // Its help stands for an error where a command is missing.
    const isHelp = error.code === 'commander.help';
    const message = isHelp ? 'no command given' : error.message;
    const what = message.replace(/^error: /, '').replaceAll('\n', ' ');
    return complain(new UserError(`Cannot run urbgate: ${what}, see urbgate --help`));
  }
  if (error instanceof UserError) {
    process.stderr.write(`${printable(error.message)}\n`);
    return EXIT_USER;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`${printableLines(text)}\n`);
  return EXIT_BUG;
}

/** Runs a command, which may go on when this has resolved; returns the exit code of one that failed. */
export async function runUrbgate(words: readonly string[]): Promise<number> {
  try {
    if (words.length === 0) {
      throw new UserError('Cannot run urbgate: no command given, see urbgate --help');
    }
    await urbgate().parseAsync(words, { from: 'user' });
    return 0;
  } catch (error) {
    return complain(error);
  }
}
