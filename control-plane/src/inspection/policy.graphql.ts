import {
  capturedBytesDefault,
  capturedBytesMax,
  capturedBytesMin,
  type DetectorName,
  type FindingSeverity,
  inspectedLengthDefault,
  type PolicyDirection,
  type ToolRisk,
} from '@sallyport/schema';
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { Label, LabelInput, ToolRiskEnum } from '../catalog/catalog.graphql.ts';
import { FindingSeverityEnum } from '../catalog/definition-body.graphql.ts';
import {
  ChangeInput,
  connectionType,
  CreateInput,
  DateTime,
  graphqlEnum,
  SearchArguments,
} from '../graphql-connection.ts';
import { retentionDaysDefault, retentionDaysMax, type StoredCapture } from './capture-form.ts';
import type { PolicyRow } from './inspection.tables.ts';
import { positionDefault, type SayableAction } from './policy-form.ts';

export const PolicyModeEnum = graphqlEnum<PolicyRow['mode']>('PolicyMode', 'Whether a policy acts.', {
  enforce: 'It acts.',
  shadow: 'It changes nothing; the audit trail tells what it would have done.',
  off: 'It does nothing and does not reach nodes.',
});

export const PolicyDirectionEnum = graphqlEnum<PolicyDirection>('PolicyDirection', 'Which way a message goes.', {
  request: 'From clients to servers: arguments, and answers to what servers ask.',
  response: 'From servers to clients: results, errors, notifications, and what servers ask.',
});

export const PolicyActionEnum = graphqlEnum<SayableAction>('PolicyAction', 'What is done about a finding.', {
  block: 'The message does not go on; its sender is told which detector was the reason, never what it found.',
  redact: 'What was found is replaced; types stay. Where that would change a name or a route, the message is blocked.',
  label: 'The message goes on, labelled in the audit trail and in _meta of a result.',
  requireApproval: 'Not to be used yet: refused.',
});

export const DetectorEnum = graphqlEnum<DetectorName>('Detector', 'What looks at texts.', {
  hiddenText: 'Characters that a person does not see and a model reads.',
  secret: 'Credentials: tokens of known providers, private keys, connection strings, assigned passwords.',
  personalData: 'Card numbers, IBANs, US social security numbers, e-mail and IP addresses, phone numbers.',
  injection: 'Demands on a model in texts that should inform it.',
  link: 'Images and addresses that carry data away or run something.',
});

export const TooLargeOutcomeEnum = graphqlEnum<PolicyRow['onTooLarge']>(
  'TooLargeOutcome',
  'What becomes of a message with more text than a policy looks at.',
  { block: 'It does not go on.', allow: 'It goes on without a look, which the audit trail tells.' },
);

const matchFields = {
  serverIds: 'Servers. With no servers and no labels: every server.',
  serverLabels: 'Servers that carry all of these labels, besides those named.',
  tools: 'Tools by exact name or glob. With no tools, prompts and resources: every message, of any method.',
  prompts: 'Prompts by exact name or glob.',
  resources: 'Resources by exact URI or glob.',
  directions: 'Which way messages go; none: both.',
  principalIds: 'Users and service accounts. With none, and no groups: everybody.',
  groupIds: 'Groups whose members it is about, besides the principals named.',
  riskMin: 'Only calls of tools of at least this risk, and of tools whose risk nobody has judged.',
} as const;

@ObjectType({ description: 'What a policy is about. All sides must fit; a side of which nothing is said fits always.' })
export class PolicyMatch {
  @Field(() => [ID], { description: matchFields.serverIds })
  serverIds!: string[];

  @Field(() => [Label], { description: matchFields.serverLabels })
  serverLabels!: Label[];

  @Field(() => [String], { description: matchFields.tools })
  tools!: string[];

  @Field(() => [String], { description: matchFields.prompts })
  prompts!: string[];

  @Field(() => [String], { description: matchFields.resources })
  resources!: string[];

  @Field(() => [PolicyDirectionEnum], { description: matchFields.directions })
  directions!: PolicyDirection[];

  @Field(() => [ID], { description: matchFields.principalIds })
  principalIds!: string[];

  @Field(() => [ID], { description: matchFields.groupIds })
  groupIds!: string[];

  @Field(() => ToolRiskEnum, { nullable: true, description: matchFields.riskMin })
  riskMin!: ToolRisk | null;
}

@InputType({ description: 'What a policy is about. All sides must fit; a side of which nothing is said fits always.' })
export class PolicyMatchInput {
  @Field(() => [ID], { nullable: true, description: matchFields.serverIds })
  serverIds?: string[] | null;

  @Field(() => [LabelInput], { nullable: true, description: matchFields.serverLabels })
  serverLabels?: LabelInput[] | null;

  @Field(() => [String], { nullable: true, description: matchFields.tools })
  tools?: string[] | null;

  @Field(() => [String], { nullable: true, description: matchFields.prompts })
  prompts?: string[] | null;

  @Field(() => [String], { nullable: true, description: matchFields.resources })
  resources?: string[] | null;

  @Field(() => [PolicyDirectionEnum], { nullable: true, description: matchFields.directions })
  directions?: PolicyDirection[] | null;

  @Field(() => [ID], { nullable: true, description: matchFields.principalIds })
  principalIds?: string[] | null;

  @Field(() => [ID], { nullable: true, description: matchFields.groupIds })
  groupIds?: string[] | null;

  @Field(() => ToolRiskEnum, { nullable: true, description: matchFields.riskMin })
  riskMin?: ToolRisk | null;
}

const ruleFields = {
  detector: 'What looks.',
  action: 'What is done about what it finds.',
  severityMin: 'Findings below pass; null for what the detector deems sure enough.',
  categories: 'Kinds of findings it is about, as inspectionDetectors lists them; none: all.',
} as const;

@ObjectType({
  description: 'What a policy does about what one detector finds. The first rule that covers a finding decides.',
})
export class PolicyRule {
  @Field(() => DetectorEnum, { description: ruleFields.detector })
  detector!: DetectorName;

  @Field(() => PolicyActionEnum, { description: ruleFields.action })
  action!: SayableAction;

  @Field(() => FindingSeverityEnum, { nullable: true, description: ruleFields.severityMin })
  severityMin!: FindingSeverity | null;

  @Field(() => [String], { description: ruleFields.categories })
  categories!: string[];
}

@InputType({
  description: 'What a policy does about what one detector finds. The first rule that covers a finding decides.',
})
export class PolicyRuleInput {
  @Field(() => DetectorEnum, { description: ruleFields.detector })
  detector!: DetectorName;

  @Field(() => PolicyActionEnum, { description: ruleFields.action })
  action!: SayableAction;

  @Field(() => FindingSeverityEnum, { nullable: true, description: ruleFields.severityMin })
  severityMin?: FindingSeverity | null;

  @Field(() => [String], { nullable: true, description: ruleFields.categories })
  categories?: string[] | null;
}

const captureFields = {
  directions: 'Which messages: REQUEST, RESPONSE or both.',
  bytesMax: `Most bytes kept of one direction of an exchange, ${capturedBytesMin} to ${capturedBytesMax}; ${capturedBytesDefault} if never given. What does not fit is left out and counted.`,
  retentionDays: `Days after which what was kept is deleted, 1 to ${retentionDaysMax}; ${retentionDaysDefault} if never given. A change holds for what is kept already too.`,
} as const;

@ObjectType({
  description:
    'Which messages of the exchanges that a policy is about are kept for auditors: sealed, and without the secrets in them.',
})
export class PolicyCapture {
  @Field(() => [PolicyDirectionEnum], { description: captureFields.directions })
  directions!: readonly PolicyDirection[];

  @Field(() => Int, { description: captureFields.bytesMax })
  bytesMax!: number;

  @Field(() => Int, { description: captureFields.retentionDays })
  retentionDays!: number;
}

@InputType({
  description:
    'Which messages of the exchanges that a policy is about are kept for auditors: sealed, and without the secrets in them.',
})
export class PolicyCaptureInput {
  @Field(() => [PolicyDirectionEnum], { description: captureFields.directions })
  directions!: PolicyDirection[];

  @Field(() => Int, { nullable: true, description: captureFields.bytesMax })
  bytesMax?: number | null;

  @Field(() => Int, { nullable: true, description: captureFields.retentionDays })
  retentionDays?: number | null;
}

const fields = {
  name: 'What administrators call it; need not be unique.',
  description: 'Why it exists.',
  position: `Of policies about the same message, lower decides first; of equal ones the older. ${positionDefault} if never given.`,
  mode: 'Whether it acts; SHADOW if never given.',
  match: 'What it is about; everything if never given.',
  rules: 'What it does; the first rule that covers a finding decides.',
  inspectedLengthMax: `Most text of one message that it looks at, in UTF-16 units; ${inspectedLengthDefault} if never given.`,
  onTooLarge: 'What becomes of a message with more text; BLOCK if never given.',
  webhookIds: 'Webhooks that are asked about what the rules let through, in order; at most 8.',
  webhookBudgetMs:
    'For all webhooks asked about one message together, milliseconds; null for 2000. Of several policies the longest holds.',
  capture:
    'What it keeps of messages; null for nothing. Only in force: in SHADOW and OFF nothing is kept. Of several policies about an exchange the first decides. Needs a key to seal with.',
} as const;

@ObjectType({ description: 'What is inspected of the traffic, and what is done about what is found.' })
export class Policy {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: fields.name })
  name!: string;

  @Field(() => String, { description: fields.description })
  description!: string;

  @Field(() => Int, { description: fields.position })
  position!: number;

  @Field(() => PolicyModeEnum, { description: fields.mode })
  mode!: PolicyRow['mode'];

  @Field(() => PolicyMatch, { description: fields.match })
  match!: PolicyMatch;

  @Field(() => [PolicyRule], { description: fields.rules })
  rules!: PolicyRule[];

  @Field(() => Int, { description: fields.inspectedLengthMax })
  inspectedLengthMax!: number;

  @Field(() => TooLargeOutcomeEnum, { description: fields.onTooLarge })
  onTooLarge!: PolicyRow['onTooLarge'];

  @Field(() => [ID], { description: fields.webhookIds })
  webhookIds!: string[];

  @Field(() => Int, { nullable: true, description: fields.webhookBudgetMs })
  webhookBudgetMs!: number | null;

  @Field(() => PolicyCapture, { nullable: true, description: fields.capture })
  capture!: StoredCapture | null;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;
}

export const PolicyConnection = connectionType('Policy', 'policies', () => Policy);

@ArgsType()
export class PoliciesArguments extends SearchArguments {
  @Field(() => [ID], { nullable: true, description: 'Only those of these policies that exist.' })
  ids?: string[] | null;

  @Field(() => PolicyModeEnum, { nullable: true, description: 'Only policies in this mode.' })
  mode?: PolicyRow['mode'] | null;

  @Field(() => ID, { nullable: true, description: 'Only policies that name this server itself.' })
  serverId?: string | null;
}

@InputType({ description: 'A policy to make.' })
export class CreatePolicyInput extends CreateInput {
  @Field(() => String, { description: fields.name })
  name!: string;

  @Field(() => String, { nullable: true, description: fields.description })
  description?: string | null;

  @Field(() => Int, { nullable: true, description: fields.position })
  position?: number | null;

  @Field(() => PolicyModeEnum, { nullable: true, description: fields.mode })
  mode?: PolicyRow['mode'] | null;

  @Field(() => PolicyMatchInput, { nullable: true, description: fields.match })
  match?: PolicyMatchInput | null;

  @Field(() => [PolicyRuleInput], { description: fields.rules })
  rules!: PolicyRuleInput[];

  @Field(() => Int, { nullable: true, description: fields.inspectedLengthMax })
  inspectedLengthMax?: number | null;

  @Field(() => TooLargeOutcomeEnum, { nullable: true, description: fields.onTooLarge })
  onTooLarge?: PolicyRow['onTooLarge'] | null;

  @Field(() => [ID], { nullable: true, description: fields.webhookIds })
  webhookIds?: string[] | null;

  @Field(() => Int, { nullable: true, description: fields.webhookBudgetMs })
  webhookBudgetMs?: number | null;

  @Field(() => PolicyCaptureInput, { nullable: true, description: fields.capture })
  capture?: PolicyCaptureInput | null;
}

@InputType({
  description: 'Changes to a policy; absent fields keep their value. Match and rules are replaced as a whole.',
})
export class UpdatePolicyInput extends ChangeInput {
  @Field(() => String, { nullable: true, description: fields.name })
  name?: string | null;

  @Field(() => String, { nullable: true, description: fields.description })
  description?: string | null;

  @Field(() => Int, { nullable: true, description: fields.position })
  position?: number | null;

  @Field(() => PolicyModeEnum, { nullable: true, description: fields.mode })
  mode?: PolicyRow['mode'] | null;

  @Field(() => PolicyMatchInput, { nullable: true, description: fields.match })
  match?: PolicyMatchInput | null;

  @Field(() => [PolicyRuleInput], { nullable: true, description: fields.rules })
  rules?: PolicyRuleInput[] | null;

  @Field(() => Int, { nullable: true, description: fields.inspectedLengthMax })
  inspectedLengthMax?: number | null;

  @Field(() => TooLargeOutcomeEnum, { nullable: true, description: fields.onTooLarge })
  onTooLarge?: PolicyRow['onTooLarge'] | null;

  @Field(() => [ID], { nullable: true, description: fields.webhookIds })
  webhookIds?: string[] | null;

  @Field(() => Int, { nullable: true, description: fields.webhookBudgetMs })
  webhookBudgetMs?: number | null;

  @Field(() => PolicyCaptureInput, { nullable: true, description: fields.capture })
  capture?: PolicyCaptureInput | null;
}

@InputType({ description: 'A policy to delete.' })
export class DeletePolicyInput extends ChangeInput {}

@ObjectType({ description: 'A built-in detector, for writing rules.' })
export class InspectionDetector {
  @Field(() => DetectorEnum, { description: 'Its name in rules and verdicts.' })
  detector!: DetectorName;

  @Field(() => String, { description: 'Raised where the same text may be found to hold something else.' })
  version!: string;

  @Field(() => [String], { description: 'Kinds of what it finds.' })
  categories!: readonly string[];

  @Field(() => FindingSeverityEnum, { description: 'What a rule acts on that names no least severity.' })
  severityMin!: FindingSeverity;
}
