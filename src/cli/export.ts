/** `urbgate export`: adds a device to the running gateway. */
import { Command } from 'commander';
import { parseExportSpec } from '../core/export-spec.ts';
import { askGateway } from './control-client.ts';
import { controlOption } from './control-path.ts';
import { exportLines, say } from './output.ts';
import { specHelp } from './schemes.ts';

export function exportCommand(): Command {
  return new Command('export')
    .description('export one more device from the running gateway')
    .argument('<spec>', 'what to export, see below')
    .addOption(controlOption(false))
    .addHelpText('after', () => `\n${EXAMPLES}\n${specHelp()}`)
    .action(async (spec: string, { control }: { control?: string }) => {
      parseExportSpec(spec);
      const request = { command: 'export', spec, folder: process.cwd() } as const;
      for (const line of exportLines(spec, await askGateway(control, request))) say(line);
    });
}

const EXAMPLES = `Examples:
  urbgate export virtual:disk,size=64MiB
  urbgate export virtual:disk,file=a.img,readonly,busid=3-1
`;
