import {
  canonicalJson,
  globProblem,
  grantDefaults,
  type GrantLimits,
  type GrantMode,
  grantProblems,
  type LabelSelector,
  type SubjectKind,
} from '@sallyport/schema';
import { descriptionLengthMax, nameLengthMax, type Violations } from '../database/violations.ts';
import type { GrantRow } from './access.tables.ts';

/** Most patterns of one kind in one grant. */
export const selectorsPerKindMax = 200;
/** Most labels one grant asks for. */
export const selectorLabelsMax = 8;
const selectorKinds = ['tools', 'prompts', 'resources'] as const;
/** Longest a grant may hold without the control plane, in milliseconds: as long as any server's limit. */
const configStalenessMsMax = 30 * 86_400_000;

export interface LabelInput {
  readonly key: string;
  readonly value: string;
}

/** What may be said of a grant when it is made, and said anew later. Absent: the default, or as it was. */
export interface GrantFieldsInput {
  readonly mode?: GrantMode | null | undefined;
  readonly tools?: readonly string[] | null | undefined;
  readonly prompts?: readonly string[] | null | undefined;
  readonly resources?: readonly string[] | null | undefined;
  readonly limits?: Partial<{ [Key in keyof GrantLimits]: GrantLimits[Key] | undefined }> | null | undefined;
  readonly when?: string | null | undefined;
  readonly whenArguments?: string | null | undefined;
  readonly notBefore?: Date | null | undefined;
  readonly notAfter?: Date | null | undefined;
  readonly configStalenessMaxMs?: number | null | undefined;
  readonly reason?: string | null | undefined;
}

/** What a grant aims at: fixed once it is made. */
export interface GrantTargetInput {
  readonly subject: { readonly kind: SubjectKind; readonly id?: string | null | undefined };
  readonly serverId?: string | null | undefined;
  readonly serverLabels?: readonly LabelInput[] | null | undefined;
  readonly effect: GrantRow['effect'];
}

export type GrantFields = Pick<
  GrantRow,
  | 'name'
  | 'mode'
  | 'tools'
  | 'prompts'
  | 'resources'
  | 'limits'
  | 'when'
  | 'whenArguments'
  | 'notBefore'
  | 'notAfter'
  | 'configStalenessMaxMs'
  | 'reason'
>;

export const noFields: Omit<GrantFields, 'name'> = {
  mode: grantDefaults.mode,
  tools: grantDefaults.tools,
  prompts: grantDefaults.prompts,
  resources: grantDefaults.resources,
  limits: null,
  when: null,
  whenArguments: null,
  notBefore: null,
  notAfter: null,
  configStalenessMaxMs: null,
  reason: '',
};

const noLimits: GrantLimits = {
  riskMin: null,
  riskMax: null,
  readOnly: null,
  destructive: null,
  idempotent: null,
  openWorld: null,
};

function limitsOf(given: NonNullable<GrantFieldsInput['limits']>): GrantLimits | null {
  const limits: GrantLimits = {
    riskMin: given.riskMin ?? null,
    riskMax: given.riskMax ?? null,
    readOnly: given.readOnly ?? null,
    destructive: given.destructive ?? null,
    idempotent: given.idempotent ?? null,
    openWorld: given.openWorld ?? null,
  };
  return canonicalJson(limits) === canonicalJson(noLimits) ? null : limits;
}

/** The fields after `input` was said over `before`. Of what may be null, null is said and absent is not. */
export function fieldsOf(
  input: GrantFieldsInput & { readonly name?: string | null | undefined },
  before: GrantFields,
): GrantFields {
  const over = <T>(given: T | null | undefined, kept: T | null): T | null => (given === undefined ? kept : given);
  return {
    name: input.name ?? before.name,
    mode: input.mode ?? before.mode,
    tools: [...(input.tools ?? before.tools)],
    prompts: [...(input.prompts ?? before.prompts)],
    resources: [...(input.resources ?? before.resources)],
    limits: input.limits === undefined ? before.limits : input.limits && limitsOf(input.limits),
    when: over(input.when, before.when),
    whenArguments: over(input.whenArguments, before.whenArguments),
    notBefore: over(input.notBefore, before.notBefore),
    notAfter: over(input.notAfter, before.notAfter),
    configStalenessMaxMs: over(input.configStalenessMaxMs, before.configStalenessMaxMs),
    reason: input.reason ?? before.reason,
  };
}

/** @param path of the input they came in, such as `input` or `input.items[3]` */
export function checkFields(found: Violations, path: string, fields: GrantFields, effect: GrantRow['effect']): void {
  found.text(`${path}.name`, fields.name, 1, nameLengthMax);
  found.text(`${path}.reason`, fields.reason, 0, descriptionLengthMax);
  const tooMany = selectorKinds.filter((kind) => fields[kind].length > selectorsPerKindMax);
  for (const kind of tooMany) found.add(`${path}.${kind}`, `must have at most ${selectorsPerKindMax} patterns`);
  if (selectorKinds.every((kind) => fields[kind].length === 0)) {
    found.add(`${path}.tools`, 'at least one of tools, prompts and resources must select something');
  }
  for (const kind of selectorKinds) {
    for (const [index, pattern] of fields[kind].slice(0, selectorsPerKindMax).entries()) {
      if (globProblem(pattern) === undefined)
        found.text(`${path}.${kind}[${index}]`, pattern, 1, Number.POSITIVE_INFINITY);
    }
  }
  if (tooMany.length === 0) {
    for (const { path: part, message } of grantProblems({ ...fields, effect })) {
      found.add(`${path}.${part.replace(/\.(\d+)$/, '[$1]')}`, message);
    }
  }
  if (fields.notBefore !== null && fields.notAfter !== null && fields.notBefore >= fields.notAfter) {
    found.add(`${path}.notAfter`, 'must be after notBefore');
  }
  const stalenessMs = fields.configStalenessMaxMs;
  if (stalenessMs !== null && (stalenessMs < 1 || stalenessMs > configStalenessMsMax)) {
    found.add(`${path}.configStalenessMaxMs`, `must be between 1 and ${configStalenessMsMax} milliseconds`);
  }
}

/** The labels a grant asks of servers, or null where it names one server. */
export function selectorOf(found: Violations, path: string, input: GrantTargetInput): LabelSelector | null {
  const { serverId, serverLabels } = input;
  const labels = serverLabels ?? null;
  if ((serverId ?? null) === null && labels === null) {
    found.add(`${path}.serverId`, 'must be the id of a server, unless serverLabels are given');
  }
  if (labels !== null && (serverId ?? null) !== null) {
    found.add(`${path}.serverLabels`, 'must be absent where serverId is given');
  }
  return checkSelector(found, `${path}.serverLabels`, labels);
}

/** The labels that servers are selected by; null where none are given. */
export function checkSelector(
  found: Violations,
  path: string,
  labels: readonly LabelInput[] | null,
): LabelSelector | null {
  if (labels === null) return null;
  if (labels.length === 0) found.add(path, 'must name at least one label');
  if (labels.length > selectorLabelsMax) found.add(path, `must have at most ${selectorLabelsMax} labels`);
  const keys = new Set<string>();
  for (const [index, { key, value }] of labels.slice(0, selectorLabelsMax).entries()) {
    const at = `${path}[${index}]`;
    found.text(`${at}.key`, key, 1, nameLengthMax);
    found.text(`${at}.value`, value, 0, nameLengthMax);
    if (keys.has(key)) found.add(`${at}.key`, 'is given twice');
    keys.add(key);
  }
  return Object.fromEntries(labels.map(({ key, value }) => [key, value]));
}
