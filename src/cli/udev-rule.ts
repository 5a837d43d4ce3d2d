/** `urbgate udev-rule`: what lets devices be exported without root. */
import { Command } from 'commander';
import { parseSelector, udevRule } from '../core/devices/host/selector.ts';
import { UserError } from '../core/errors.ts';
import { parseExportSpec } from '../core/export-spec.ts';
import { say } from './output.ts';

/** Debian's group for those who use devices that are plugged in. */
const GROUP_DEFAULT = 'plugdev';

export function udevRuleCommand(): Command {
  return new Command('udev-rule')
    .description('print the udev rule that lets the devices of a SPEC be exported without root')
    .argument('<spec>', 'usb:VVVV:PPPP or another usb: SPEC, see urbgate help serve')
    .option('--group <name>', 'the group that may', GROUP_DEFAULT)
    .addHelpText('after', `\n${EXAMPLES}`)
    .action((text: string, { group }: { group: string }) => {
      const spec = parseExportSpec(text);
      if (spec.scheme !== 'usb') {
        throw new UserError(`Cannot print a udev rule for ${text}: wanted a SPEC with usb:`);
      }
      if (!/^[a-z_][a-z0-9_-]{0,31}$/i.test(group)) {
        throw new UserError(`Cannot print a udev rule: group "${group}", wanted a group's name`);
      }
      const rule = udevRule(parseSelector(spec.target), group);
      say('# /etc/udev/rules.d/70-urbgate.rules');
      say('# then: udevadm control --reload && udevadm trigger --subsystem-match=usb');
      say(rule);
    });
}

const EXAMPLES = `Examples:
  urbgate udev-rule usb:0951:1666
  urbgate udev-rule 'usb:0403:*' --group dialout | sudo tee /etc/udev/rules.d/70-urbgate.rules
`;
