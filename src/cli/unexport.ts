/** `urbgate unexport`: takes a device back; its client sees it unplugged. */
import { Command } from 'commander';
import { askGateway } from './control-client.ts';
import { controlOption } from './control-path.ts';
import { say } from './output.ts';

export function unexportCommand(): Command {
  return new Command('unexport')
    .description('take an exported device back, as if it were unplugged')
    .argument('<busid>', 'its bus id, as urbgate status shows it')
    .addOption(controlOption(false))
    .addHelpText('after', '\nExamples:\n  urbgate unexport 1-1')
    .action(async (busId: string, { control }: { control?: string }) => {
      await askGateway(control, { command: 'unexport', busId });
      say(`Unexported ${busId}`);
    });
}
