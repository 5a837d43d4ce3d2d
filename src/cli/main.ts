#!/usr/bin/env node
/** The `urbgate` command as a process. */
import { leave } from './leave.ts';
import { complain, runUrbgate } from './program.ts';

// A reader that has seen enough (`urbgate list | head -1`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});
// Node.js would print what is in the message as it is, and that may come from a peer.
// Commands that serve replace this: see endOnBug.
process.on('uncaughtException', (error) => process.exit(complain(error)));

const code = await runUrbgate(process.argv.slice(2));
if (code !== 0) leave(code);
