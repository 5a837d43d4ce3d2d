/** `urbgate status`: what the running gateway exports, to whom, and what has passed through. */
import { Command } from 'commander';
import { askGateway } from './control-client.ts';
import { controlOption } from './control-path.ts';
import type { ExportStatus, GatewayStatus } from './gateway.ts';
import { say, sayJson } from './output.ts';

export function statusCommand(): Command {
  return new Command('status')
    .description('show exports, clients and URB counts of the running gateway')
    .option('--json', 'for programs')
    .addOption(controlOption(false))
    .addHelpText('after', '\nExamples:\n  urbgate status\n  urbgate status --json | jq .exports')
    .action(async ({ json, control }: { json?: true; control?: string }) => {
      const status = await askGateway(control, { command: 'status' });
      if (json) sayJson(status);
      else for (const line of statusLines(status)) say(line);
    });
}

export function statusLines(status: GatewayStatus): string[] {
  const { pid, listening, exports } = status;
  return [
    `Gateway with process id ${pid}, listening on ${listening.join(', ') || 'nothing'}`,
    ...(exports.length === 0 ? ['Nothing is exported'] : exports.flatMap(exportLines)),
  ];
}

function exportLines({ busId, deviceId, speed, label, spec, client, fault, total }: ExportStatus) {
  const lines = [`${busId}  ${deviceId}  ${speed} speed  ${label}`, `     ${spec}`];
  lines.push(`     ${counts(total)} in all`);
  if (fault !== null) {
    lines.push(`     broken: after a bug, ${fault}; unexport it and export it again`);
  } else if (client === null) lines.push('     free');
  else {
    const { peer, since, outstanding } = client;
    lines.push(`     attached by ${peer} since ${since}`);
    lines.push(`     ${counts(client)}, ${outstanding} outstanding`);
  }
  return lines;
}

const counts = ({ urbs, errors }: { urbs: number; errors: number }) =>
  `${urbs} URBs, ${errors} failed`;
