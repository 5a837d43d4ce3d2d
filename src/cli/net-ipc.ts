/**
 * net-ipc without native code.
 *
 * net-ipc loads msgpackr if that is installed, and msgpackr the binary of msgpackr-extract, unless a
 * variable says not to. Neither is used here (control-guard.ts lets no message be MessagePack), and a
 * binary that decodes what a peer sends is best not there. A lock file or an override would do for this
 * repository alone, not for those who install the package; so the variable is set while net-ipc is loaded,
 * which therefore nobody else imports.
 */
import { createRequire } from 'node:module';

const VARIABLE = 'MSGPACKR_NATIVE_ACCELERATION_DISABLED';

function load(): typeof import('net-ipc') {
  const before = process.env[VARIABLE];
  process.env[VARIABLE] = 'true';
  try {
    return createRequire(import.meta.url)('net-ipc');
  } finally {
    if (before === undefined) delete process.env[VARIABLE];
    else process.env[VARIABLE] = before;
  }
}

export const { Client, Server } = load();
export type Server = import('net-ipc').Server;
