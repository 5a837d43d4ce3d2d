/** `urbgate kick`: takes a device away from its client, without unexporting it. */
import { Command } from 'commander';
import { askGateway } from './control-client.ts';
import { controlOption } from './control-path.ts';
import { say } from './output.ts';

const HELP = `
The client sees the device unplugged, and its connection ends. The device stays exported, and whoever attaches it
next has it: perhaps the same client, if it attaches whatever comes (urbgate attach --persist, a Xen guest).

Examples:
  urbgate kick 1-1`;

export function kickCommand(): Command {
  return new Command('kick')
    .description('take an exported device away from the client that has it')
    .argument('<busid>', 'its bus id, as urbgate status shows it')
    .addOption(controlOption(false))
    .addHelpText('after', HELP)
    .action(async (busId: string, { control }: { control?: string }) => {
      const peer = await askGateway(control, { command: 'kick', busId });
      say(`Took ${busId} from ${peer}`);
    });
}
