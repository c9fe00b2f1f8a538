import { z } from 'zod';
import { detectorNames, findingSeverities } from '../detectors/finding.ts';
import { globProblem } from '../glob.ts';
import { webhookBudgetMsMax, webhooksPerPolicyMax } from './webhook.ts';

/** `enforce`: acts. `shadow`: only the record tells what it would have done. What is `off` does not reach nodes. */
export const policyModes = ['enforce', 'shadow', 'off'] as const;
export type PolicyMode = (typeof policyModes)[number];

/** `request`: what clients send to servers. `response`: all that servers send to clients, their own requests included. */
export const policyDirections = ['request', 'response'] as const;
export type PolicyDirection = (typeof policyDirections)[number];

/**
 * What is done about a finding. `block`: the message does not go on. `redact`: what was found is replaced. `label`: it
 * goes on, with the label of the detector in the record and in `_meta` of the answer.
 */
export const policyActions = ['block', 'redact', 'label'] as const;
export type PolicyAction = (typeof policyActions)[number];

/** What becomes of a message with more text than a policy has looked at. */
export const tooLargeOutcomes = ['block', 'allow'] as const;
export type TooLargeOutcome = (typeof tooLargeOutcomes)[number];

export const policyPatternsMax = 200;
export const policyRulesMax = 32;
export const policyCategoriesMax = 64;
/** Most text of one message that is looked at, in UTF-16 units: the default, and the most a policy may ask for. */
export const inspectedLengthDefault = 1_048_576;
export const inspectedLengthMax = 4 * 1_048_576;
export const inspectedLengthMin = 1_024;

const id = z.string().min(1).max(128);
const patterns = z.array(z.string()).max(policyPatternsMax);

/** What a policy is about. An empty list says nothing about that side: any will do. */
const policyMatch = z.strictObject({
  /** Ids of servers, or labels that a server must all carry; where both are empty, every server. */
  serverIds: z.array(id),
  serverLabels: z.record(z.string(), z.string()),
  /**
   * Exact names or globs of what is used. Where all three are empty the policy is about every message; else about those
   * that use something named here.
   */
  tools: patterns,
  prompts: patterns,
  resources: patterns,
  directions: z.array(z.enum(policyDirections)),
  /** Ids of principals, and of groups; who is either. */
  principalIds: z.array(id),
  groupIds: z.array(id),
  /** Only calls of tools of at least this risk, and of tools whose risk nobody has judged. */
  riskMin: z.enum(['low', 'medium', 'high', 'critical']).nullable(),
});
export type PolicyMatch = z.infer<typeof policyMatch>;

/** What a policy does about what one detector finds. */
const policyRule = z.strictObject({
  detector: z.enum(detectorNames),
  action: z.enum(policyActions),
  /** Findings below pass; null for what the detector deems sure enough. */
  severityMin: z.enum(findingSeverities).nullable(),
  /** Kinds of findings it is about; empty for all of the detector's. */
  categories: z.array(z.string().min(1).max(64)).max(policyCategoriesMax),
});
export type PolicyRule = z.infer<typeof policyRule>;

/** Most bytes kept of one direction of an exchange: the default, and the most and least a policy may ask for. */
export const capturedBytesDefault = 65_536;
export const capturedBytesMax = 1_048_576;
export const capturedBytesMin = 1_024;

/** Which messages of an exchange are kept for auditors, secrets taken out. */
const policyCapture = z.strictObject({
  directions: z.array(z.enum(policyDirections)).min(1),
  /** Of all messages of one direction together; what does not fit is left out. */
  bytesMax: z.number().int().min(capturedBytesMin).max(capturedBytesMax),
});
export type PolicyCapture = z.infer<typeof policyCapture>;

/** A policy as nodes receive it. */
export const policyEntrySchema = z.strictObject({
  id,
  mode: z.enum(['enforce', 'shadow']),
  match: policyMatch,
  /**
   * The first that covers a finding decides it. Without any, no webhooks and no capture, nothing that the policy is about
   * passes.
   */
  rules: z.array(policyRule).max(policyRulesMax),
  /** Who is asked about what the rules let through, in order; absent for nobody. */
  webhookIds: z.array(id).min(1).max(webhooksPerPolicyMax).optional(),
  /** For all of them together, milliseconds; absent for the default. */
  webhookBudgetMs: z.number().int().positive().max(webhookBudgetMsMax).optional(),
  inspectedLengthMax: z.number().int().min(inspectedLengthMin).max(inspectedLengthMax),
  onTooLarge: z.enum(tooLargeOutcomes),
  /** Absent for nothing; a policy in shadow captures nothing. */
  capture: policyCapture.optional(),
});
export type PolicyEntry = z.infer<typeof policyEntrySchema>;

/** Whether a policy has rules, somebody to ask, or keeps messages: one without any of them lets nothing through. */
export function doesSomething({ rules, webhookIds, capture }: PolicyEntry): boolean {
  return rules.length > 0 || webhookIds !== undefined || capture !== undefined;
}

/** All policies that act or look, the first to decide first. */
export const policiesDocumentSchema = z.strictObject({
  kind: z.literal('policies'),
  policies: z.array(policyEntrySchema),
});
export type PoliciesDocument = z.infer<typeof policiesDocumentSchema>;

/** What a policy says where nothing is said. */
export const policyMatchDefaults: PolicyMatch = {
  serverIds: [],
  serverLabels: {},
  tools: [],
  prompts: [],
  resources: [],
  directions: [],
  principalIds: [],
  groupIds: [],
  riskMin: null,
};

export interface PolicyProblem {
  /** Path into the policy, such as `match.tools.0`. */
  readonly path: string;
  readonly message: string;
}

/** Everything by which a policy, well-formed as it is, could not do what it says. */
export function policyProblems({ match, rules }: Pick<PolicyEntry, 'match' | 'rules'>): PolicyProblem[] {
  const problems: PolicyProblem[] = [];
  for (const kind of ['tools', 'prompts', 'resources'] as const) {
    for (const [index, pattern] of match[kind].entries()) {
      const problem = globProblem(pattern);
      if (problem !== undefined) problems.push({ path: `match.${kind}.${index}`, message: problem });
    }
  }
  const namesOthers = match.prompts.length + match.resources.length > 0;
  if (match.riskMin !== null && namesOthers && match.tools.length === 0) {
    problems.push({ path: 'match.riskMin', message: 'only tools have a risk, and the policy is about none' });
  }
  for (const [index, rule] of rules.entries()) {
    const before = rules.slice(0, index).findIndex((earlier) => covers(earlier, rule));
    if (before >= 0) {
      problems.push({
        path: `rules.${index}`,
        message: `is never reached: rule ${before} covers all that it is about`,
      });
    }
  }
  return problems;
}

function covers(earlier: PolicyRule, later: PolicyRule): boolean {
  if (earlier.detector !== later.detector) return false;
  if (severityRank(earlier) > severityRank(later)) return false;
  if (earlier.categories.length === 0) return true;
  return later.categories.length > 0 && later.categories.every((category) => earlier.categories.includes(category));
}

/** What is acted on where a rule says nothing: e-mail addresses count, a faint likeness of a demand does not. */
export const severityMinDefaults = {
  hiddenText: 'medium',
  secret: 'medium',
  personalData: 'low',
  injection: 'medium',
  link: 'medium',
} as const satisfies Record<PolicyRule['detector'], PolicyRule['severityMin']>;

/** The place of a rule's least severity among severities. */
export function severityRank({ detector, severityMin }: Pick<PolicyRule, 'detector' | 'severityMin'>): number {
  return findingSeverities.indexOf(severityMin ?? severityMinDefaults[detector]);
}
