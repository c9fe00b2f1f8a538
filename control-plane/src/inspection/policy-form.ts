import {
  detectorCategories,
  type DetectorName,
  type FindingSeverity,
  inspectedLengthDefault,
  inspectedLengthMax,
  inspectedLengthMin,
  type PolicyAction,
  policyCategoriesMax,
  type PolicyDirection,
  type PolicyEntry,
  type PolicyMatch,
  policyMatchDefaults,
  policyPatternsMax,
  policyProblems,
  policyRulesMax,
  type ToolRisk,
  webhookBudgetMsMax,
  webhooksPerPolicyMax,
} from '@sallyport/schema';
import { descriptionLengthMax, nameLengthMax, type Violations } from '../database/violations.ts';
import { type CaptureInput, captureOf, checkCapture } from './capture-form.ts';
import type { PolicyRow } from './inspection.tables.ts';

/** Most ids of one kind, and labels, in one policy. */
export const policyIdsMax = 100;
const labelsMax = 8;
const positionMax = 1_000_000;
export const positionDefault = 1_000;

/** What a policy is about, as said: absent lists say nothing about their side. */
export interface PolicyMatchInput {
  readonly serverIds?: readonly string[] | null | undefined;
  readonly serverLabels?: readonly { readonly key: string; readonly value: string }[] | null | undefined;
  readonly tools?: readonly string[] | null | undefined;
  readonly prompts?: readonly string[] | null | undefined;
  readonly resources?: readonly string[] | null | undefined;
  readonly directions?: readonly PolicyDirection[] | null | undefined;
  readonly principalIds?: readonly string[] | null | undefined;
  readonly groupIds?: readonly string[] | null | undefined;
  readonly riskMin?: ToolRisk | null | undefined;
}

/** An action as it can be said; approvals do not exist yet. */
export type SayableAction = PolicyAction | 'requireApproval';

export interface PolicyRuleInput {
  readonly detector: DetectorName;
  readonly action: SayableAction;
  readonly severityMin?: FindingSeverity | null | undefined;
  readonly categories?: readonly string[] | null | undefined;
}

/** What may be said of a policy when it is made and anew later. Absent: the default, or as it was. */
export interface PolicyFieldsInput {
  readonly name?: string | null | undefined;
  readonly description?: string | null | undefined;
  readonly position?: number | null | undefined;
  readonly mode?: PolicyRow['mode'] | null | undefined;
  readonly match?: PolicyMatchInput | null | undefined;
  readonly rules?: readonly PolicyRuleInput[] | null | undefined;
  readonly inspectedLengthMax?: number | null | undefined;
  readonly onTooLarge?: PolicyRow['onTooLarge'] | null | undefined;
  readonly webhookIds?: readonly string[] | null | undefined;
  readonly webhookBudgetMs?: number | null | undefined;
  /** Null for nothing. */
  readonly capture?: CaptureInput | null | undefined;
}

export type PolicyFields = Pick<
  PolicyRow,
  | 'name'
  | 'description'
  | 'position'
  | 'mode'
  | 'match'
  | 'inspectedLengthMax'
  | 'onTooLarge'
  | 'webhookIds'
  | 'webhookBudgetMs'
  | 'capture'
> & { readonly rules: readonly SaidRule[] };
type SaidRule = Omit<PolicyEntry['rules'][number], 'action'> & { readonly action: SayableAction };

export const newPolicy: Omit<PolicyFields, 'name' | 'rules'> = {
  description: '',
  position: positionDefault,
  mode: 'shadow',
  match: policyMatchDefaults,
  inspectedLengthMax: inspectedLengthDefault,
  onTooLarge: 'block',
  webhookIds: [],
  webhookBudgetMs: null,
  capture: null,
};

/** The fields after `input` was said over `before`; match and rules are said as a whole. */
export function fieldsOf(input: PolicyFieldsInput, before: PolicyFields): PolicyFields {
  return {
    name: input.name ?? before.name,
    description: input.description ?? before.description,
    position: input.position ?? before.position,
    mode: input.mode ?? before.mode,
    match: input.match ? matchOf(input.match) : before.match,
    rules: input.rules ? input.rules.map(ruleOf) : before.rules,
    inspectedLengthMax: input.inspectedLengthMax ?? before.inspectedLengthMax,
    onTooLarge: input.onTooLarge ?? before.onTooLarge,
    webhookIds: input.webhookIds?.map((id) => id.toLowerCase()) ?? before.webhookIds,
    webhookBudgetMs: input.webhookBudgetMs === undefined ? before.webhookBudgetMs : input.webhookBudgetMs,
    capture: input.capture === undefined ? before.capture : input.capture && captureOf(input.capture),
  };
}

function matchOf(input: PolicyMatchInput): PolicyMatch {
  return {
    serverIds: (input.serverIds ?? []).map((id) => id.toLowerCase()),
    serverLabels: Object.fromEntries((input.serverLabels ?? []).map(({ key, value }) => [key, value])),
    tools: [...(input.tools ?? [])],
    prompts: [...(input.prompts ?? [])],
    resources: [...(input.resources ?? [])],
    directions: [...(input.directions ?? [])],
    principalIds: (input.principalIds ?? []).map((id) => id.toLowerCase()),
    groupIds: (input.groupIds ?? []).map((id) => id.toLowerCase()),
    riskMin: input.riskMin ?? null,
  };
}

function ruleOf({ detector, action, severityMin, categories }: PolicyRuleInput): SaidRule {
  return { detector, action, severityMin: severityMin ?? null, categories: [...(categories ?? [])] };
}

/** Everything wrong with a policy but whom and what it names, which only the database knows. */
export function checkFields(
  found: Violations,
  path: string,
  fields: PolicyFields,
  labels: PolicyMatchInput['serverLabels'],
): void {
  found.text(`${path}.name`, fields.name, 1, nameLengthMax);
  found.text(`${path}.description`, fields.description, 0, descriptionLengthMax);
  found.between(`${path}.position`, fields.position, 0, positionMax);
  found.between(`${path}.inspectedLengthMax`, fields.inspectedLengthMax, inspectedLengthMin, inspectedLengthMax);
  const { match, rules } = fields;
  for (const kind of ['serverIds', 'principalIds', 'groupIds'] as const) {
    if (match[kind].length > policyIdsMax) found.add(`${path}.match.${kind}`, `must have at most ${policyIdsMax} ids`);
  }
  for (const kind of ['tools', 'prompts', 'resources'] as const) {
    if (match[kind].length > policyPatternsMax) {
      found.add(`${path}.match.${kind}`, `must have at most ${policyPatternsMax} patterns`);
    }
    for (const [index, pattern] of match[kind].slice(0, policyPatternsMax).entries()) {
      if (pattern !== '') found.text(`${path}.match.${kind}[${index}]`, pattern, 1, Number.POSITIVE_INFINITY);
    }
  }
  checkLabels(found, `${path}.match.serverLabels`, labels ?? []);
  checkRules(found, `${path}.rules`, fields);
  checkWebhooks(found, path, fields);
  if (fields.capture !== null) checkCapture(found, `${path}.capture`, fields.capture, match.directions);
  const acting = rules.filter((rule): rule is PolicyEntry['rules'][number] => rule.action !== 'requireApproval');
  if (acting.length !== rules.length || rules.length > policyRulesMax) return;
  for (const { path: part, message } of policyProblems({ match, rules: acting })) {
    found.add(`${path}.${part.replaceAll(/\.(\d+)/g, '[$1]')}`, message);
  }
}

function checkLabels(found: Violations, path: string, labels: NonNullable<PolicyMatchInput['serverLabels']>): void {
  if (labels.length > labelsMax) found.add(path, `must have at most ${labelsMax} labels`);
  for (const [index, { key, value }] of labels.slice(0, labelsMax).entries()) {
    found.text(`${path}[${index}].key`, key, 1, nameLengthMax);
    found.text(`${path}[${index}].value`, value, 0, nameLengthMax);
    if (labels.findIndex((label) => label.key === key) < index) found.add(`${path}[${index}].key`, 'is given twice');
  }
}

function checkWebhooks(found: Violations, path: string, { webhookIds, webhookBudgetMs }: PolicyFields): void {
  if (webhookIds.length > webhooksPerPolicyMax) {
    found.add(`${path}.webhookIds`, `must have at most ${webhooksPerPolicyMax} webhooks`);
  }
  for (const [index, id] of webhookIds.slice(0, webhooksPerPolicyMax).entries()) {
    if (webhookIds.indexOf(id) < index) found.add(`${path}.webhookIds[${index}]`, 'is given twice');
  }
  if (webhookBudgetMs !== null) found.between(`${path}.webhookBudgetMs`, webhookBudgetMs, 1, webhookBudgetMsMax);
}

function checkRules(found: Violations, path: string, { rules, webhookIds, capture }: PolicyFields): void {
  if (rules.length + webhookIds.length === 0 && capture === null) {
    found.add(
      path,
      'must say what to do about at least one detector, or webhookIds whom to ask, or capture what to keep',
    );
  }
  if (rules.length > policyRulesMax) found.add(path, `must have at most ${policyRulesMax} rules`);
  for (const [index, { detector, action, categories }] of rules.slice(0, policyRulesMax).entries()) {
    const at = `${path}[${index}]`;
    if (action === 'requireApproval') {
      found.add(`${at}.action`, 'approvals cannot be asked for yet; use BLOCK, REDACT or LABEL');
    }
    if (categories.length > policyCategoriesMax) {
      found.add(`${at}.categories`, `must have at most ${policyCategoriesMax} categories`);
    }
    const known = detectorCategories[detector];
    for (const [number, category] of categories.slice(0, policyCategoriesMax).entries()) {
      if (!known.includes(category)) {
        found.add(`${at}.categories[${number}]`, `is none of what ${detector} finds: ${known.join(', ')}`);
      }
    }
  }
}
