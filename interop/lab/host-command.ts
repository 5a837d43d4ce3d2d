/** Runs a command on the host to its end, for preparations: packages, compiling, unpacking. */

import { execFile } from 'node:child_process';

export interface HostCommandOptions {
  /** Working folder. */
  folder?: string;
  /** Added to the present environment. */
  environment?: Record<string, string>;
  /** The command is killed when it takes longer. */
  timeoutSeconds?: number;
}

const OUTPUT_OCTETS_MAX = 64 * 1024 * 1024;

/**
 * @returns what the command wrote to standard output
 * @throws Error with the end of its standard error if it fails
 */
export function hostCommand(
  command: string,
  args: readonly string[],
  options: HostCommandOptions = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      command,
      [...args],
      {
        cwd: options.folder,
        env: { ...process.env, LC_ALL: 'C', ...options.environment },
        timeout: (options.timeoutSeconds ?? 300) * 1000,
        killSignal: 'SIGKILL',
        maxBuffer: OUTPUT_OCTETS_MAX,
      },
      (error, stdout, stderr) => {
        if (error === null) return resolve(stdout);
        const line = [command, ...args].join(' ');
        const why = error.killed ? 'it took too long' : stderr.trim().slice(-2000) || error.message;
        reject(new Error(`Cannot run ${line}: ${why}`, { cause: error }));
      },
    );
  });
}
