/**
 * What the results of commands look like. Whoever listens on a control socket may be of another version,
 * or something else: a command looks before it believes, so that a wrong answer is one sentence.
 *
 * Fields that are not known are let pass: a newer version has them.
 */
import type { AttachmentStatus, SupervisorStatus } from './attach-protocol.ts';
import type { Answer, Command } from './control-protocol.ts';
import type { ClientStatus, ExportStatus, GatewayStatus, UrbCounts } from './gateway.ts';

export type Check = (value: unknown) => boolean;

const text: Check = (value) => typeof value === 'string';
const number: Check = (value) => typeof value === 'number';
const flag: Check = (value) => typeof value === 'boolean';
const nothing: Check = (value) => value === null;
const orNull =
  (check: Check): Check =>
  (value) =>
    value === null || check(value);
const list =
  (check: Check): Check =>
  (value) =>
    Array.isArray(value) && value.every(check);

/** An object that has all fields of a type. */
function record<T>(fields: Readonly<Record<keyof T, Check>>): Check {
  const checks = Object.entries<Check>(fields);
  return (value) =>
    typeof value === 'object' &&
    value !== null &&
    checks.every(([name, check]) => check((value as Record<string, unknown>)[name]));
}

const counts = { urbs: number, errors: number };

const isExport = record<ExportStatus>({
  busId: text,
  spec: text,
  deviceId: text,
  speed: text,
  label: text,
  fault: orNull(text),
  client: orNull(record<ClientStatus>({ peer: text, since: text, outstanding: number, ...counts })),
  total: record<UrbCounts>(counts),
});

const isAttachment = record<AttachmentStatus>({
  id: text,
  server: text,
  busId: orNull(text),
  device: orNull(text),
  phase: text,
  port: orNull(number),
  localBusId: orNull(text),
  direct: flag,
  wait: flag,
  persist: flag,
  stallProtocol: orNull(flag),
  why: orNull(text),
  attachedCount: number,
  attachedSince: orNull(text),
  lostSince: orNull(text),
  urbs: number,
  errors: number,
  fences: number,
  timedFences: number,
});

/** By the command that a gateway was asked. */
export const GATEWAY_RESULTS: Readonly<Record<Command, Check>> = {
  status: record<GatewayStatus>({ pid: number, listening: list(text), exports: list(isExport) }),
  export: list(isExport),
  unexport: nothing,
  kick: text,
};

/** By the command that a supervisor was asked. */
export const SUPERVISOR_RESULTS = {
  status: record<SupervisorStatus>({ pid: number, attachments: list(isAttachment) }),
  attach: isAttachment,
  detach: list(text),
};

/** The status of either. */
export const isProcess = record<{ pid: number }>({ pid: number });

/** The answer to any request. */
export function isAnswer(value: unknown, isResult: Check): value is Answer {
  const { ok, result, message, user } = Object(value) as Record<string, unknown>;
  return ok === true ? isResult(result) : ok === false && text(message) && flag(user);
}
