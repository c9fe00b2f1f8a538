import type { GrantEffect, GrantMode, SubjectKind, ToolRisk } from '@sallyport/schema';
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { Label, LabelInput, ToolRiskEnum } from '../catalog/catalog.graphql.ts';
import {
  ChangeInput,
  connectionType,
  CreateInput,
  DateTime,
  dryRunDescription,
  idempotencyKeyDescription,
  MutationInput,
  ReferenceInput,
  SearchArguments,
} from '../graphql-connection.ts';
import { EffectEnum, GrantModeEnum, GrantSourceEnum, SubjectKindEnum } from './access.graphql.ts';
import type { GrantRow } from './access.tables.ts';

const limitFields = {
  riskMin: 'Only tools of at least this risk.',
  riskMax: 'Only tools of at most this risk.',
  readOnly: 'Only tools labelled so.',
  destructive: 'Only tools labelled so.',
  idempotent: 'Only tools labelled so.',
  openWorld: 'Only tools labelled so.',
} as const;

@ObjectType({
  description:
    'Narrows the tools a grant selects by the labels an administrator gave them. A tool without such a label is not ' +
    'opened by an allow, and is denied by a deny.',
})
export class GrantLimits {
  @Field(() => ToolRiskEnum, { nullable: true, description: limitFields.riskMin })
  riskMin!: ToolRisk | null;

  @Field(() => ToolRiskEnum, { nullable: true, description: limitFields.riskMax })
  riskMax!: ToolRisk | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.readOnly })
  readOnly!: boolean | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.destructive })
  destructive!: boolean | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.idempotent })
  idempotent!: boolean | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.openWorld })
  openWorld!: boolean | null;
}

@InputType({ description: 'Narrows the tools a grant selects by the labels an administrator gave them.' })
export class GrantLimitsInput {
  @Field(() => ToolRiskEnum, { nullable: true, description: limitFields.riskMin })
  riskMin?: ToolRisk | null;

  @Field(() => ToolRiskEnum, { nullable: true, description: limitFields.riskMax })
  riskMax?: ToolRisk | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.readOnly })
  readOnly?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.destructive })
  destructive?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.idempotent })
  idempotent?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: limitFields.openWorld })
  openWorld?: boolean | null;
}

@ObjectType({ description: 'Who may, or may not, use which tools, prompts and resources of a server, and when.' })
export class Grant {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => String, { description: 'What administrators call it; need not be unique.' })
  name!: string;

  @Field(() => ID, { nullable: true, description: 'Id of the server it is about; null where it goes by labels.' })
  serverId!: string | null;

  @Field(() => [Label], { nullable: true, description: 'It is about every server that carries all of these labels.' })
  serverLabels!: Label[] | null;

  @Field(() => EffectEnum, { description: 'Whether it allows, denies, or asks for an approval.' })
  effect!: GrantEffect;

  @Field(() => GrantModeEnum, { description: 'Whether it is in force.' })
  mode!: GrantMode;

  @Field(() => [String], { description: 'Tools it selects, by exact name or glob.' })
  tools!: string[];

  @Field(() => [String], { description: 'Prompts it selects, by exact name or glob.' })
  prompts!: string[];

  @Field(() => [String], { description: 'Resources and resource templates it selects, by exact URI or glob.' })
  resources!: string[];

  @Field(() => GrantLimits, { nullable: true, description: 'Narrows the tools by their labels.' })
  limits!: GrantLimits | null;

  @Field(() => String, { nullable: true, description: 'Condition over principal, server, client and time, in CEL.' })
  when!: string | null;

  @Field(() => String, { nullable: true, description: 'Condition over the call and its arguments, in CEL.' })
  whenArguments!: string | null;

  @Field(() => Int, {
    nullable: true,
    description: 'It opens nothing on a node without contact to the control plane for longer, in milliseconds.',
  })
  configStalenessMaxMs!: number | null;

  @Field(() => DateTime, { nullable: true, description: 'It has no effect before; null for no bound.' })
  notBefore!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'It has no effect from then on; null for no bound.' })
  notAfter!: Date | null;

  @Field(() => GrantSourceEnum, { description: 'How it came to be.' })
  source!: GrantRow['source'];

  @Field(() => String, { description: 'Why it exists, in the words of who made it.' })
  reason!: string;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was changed last.' })
  updatedAt!: Date;
}

export const GrantConnection = connectionType('Grant', 'grants', () => Grant);

@ArgsType()
export class GrantsArguments extends SearchArguments {
  @Field(() => [ID], { nullable: true, description: 'Only those of these grants that exist.' })
  ids?: string[] | null;

  @Field(() => ID, { nullable: true, description: 'Only grants about this server.' })
  serverId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only grants that name this user or service account itself.' })
  principalId?: string | null;

  @Field(() => ID, { nullable: true, description: 'Only grants that name this group.' })
  groupId?: string | null;

  @Field(() => EffectEnum, { nullable: true, description: 'Only grants with this effect.' })
  effect?: GrantEffect | null;

  @Field(() => GrantModeEnum, { nullable: true, description: 'Only grants in this mode.' })
  mode?: GrantMode | null;

  @Field(() => SubjectKindEnum, { nullable: true, description: 'Only grants for this kind of subject.' })
  subjectKind?: SubjectKind | null;

  @Field(() => GrantSourceEnum, { nullable: true, description: 'Only grants that came to be in this way.' })
  source?: GrantRow['source'] | null;

  @Field(() => DateTime, { nullable: true, description: 'Only grants whose window holds this instant.' })
  validAt?: Date | null;
}

@InputType({ description: 'Whom a grant is for.' })
export class GrantSubjectInput {
  @Field(() => SubjectKindEnum, { description: 'What kind of subject it is.' })
  kind!: SubjectKind;

  @Field(() => ID, { nullable: true, description: 'Id of the user, group or service account; absent for everyone.' })
  id?: string | null;
}

/** What may be said of a grant when it is made and anew later; null in a change takes a restriction away. */
const fields = {
  mode: 'Whether it is in force; ENFORCE if never given.',
  tools: 'Tools by exact name or glob ("*" matches any characters).',
  prompts: 'Prompts by exact name or glob.',
  resources: 'Resources by exact URI or glob.',
  limits: 'Narrows the tools by their labels; such a grant selects tools alone.',
  when: 'Condition in CEL over principal, server, client and now; for lists and calls.',
  whenArguments: 'Condition in CEL over target and arguments besides; for calls alone, not for resources.',
  notBefore: 'No effect before; null for no bound.',
  notAfter: 'No effect from then on; null for no bound.',
  configStalenessMaxMs: 'Opens nothing on a node without contact for longer, in milliseconds; not for a deny.',
  reason: 'Why it exists.',
} as const;

@InputType({ description: 'What may be said of a grant.' })
export abstract class GrantFieldsInput {
  @Field(() => GrantModeEnum, { nullable: true, description: fields.mode })
  mode?: GrantMode | null;

  @Field(() => [String], { nullable: true, description: fields.tools })
  tools?: string[] | null;

  @Field(() => [String], { nullable: true, description: fields.prompts })
  prompts?: string[] | null;

  @Field(() => [String], { nullable: true, description: fields.resources })
  resources?: string[] | null;

  @Field(() => GrantLimitsInput, { nullable: true, description: fields.limits })
  limits?: GrantLimitsInput | null;

  @Field(() => String, { nullable: true, description: fields.when })
  when?: string | null;

  @Field(() => String, { nullable: true, description: fields.whenArguments })
  whenArguments?: string | null;

  @Field(() => DateTime, { nullable: true, description: fields.notBefore })
  notBefore?: Date | null;

  @Field(() => DateTime, { nullable: true, description: fields.notAfter })
  notAfter?: Date | null;

  @Field(() => Int, { nullable: true, description: fields.configStalenessMaxMs })
  configStalenessMaxMs?: number | null;

  @Field(() => String, { nullable: true, description: fields.reason })
  reason?: string | null;
}

@InputType({ description: 'A new grant. At least one of tools, prompts and resources must select something.' })
export class NewGrantInput extends GrantFieldsInput {
  @Field(() => String, { description: 'What to call it: 1 to 128 characters.' })
  name!: string;

  @Field(() => GrantSubjectInput, { description: 'Whom it is for.' })
  subject!: GrantSubjectInput;

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the server it is about; absent where serverLabels are given.',
  })
  serverId?: string | null;

  @Field(() => [LabelInput], {
    nullable: true,
    description: 'Makes it about every server that carries all of these labels, now or later: 1 to 8.',
  })
  serverLabels?: LabelInput[] | null;

  @Field(() => EffectEnum, { description: 'Whether it allows, denies, or asks for an approval.' })
  effect!: GrantEffect;

  @Field(() => GrantSourceEnum, { nullable: true, description: 'How it comes to be; STATIC if absent.' })
  source?: GrantRow['source'] | null;
}

@InputType({ description: 'A new grant. At least one of tools, prompts and resources must select something.' })
export class CreateGrantInput extends NewGrantInput {
  @Field(() => Boolean, { defaultValue: false, description: dryRunDescription })
  dryRun!: boolean;

  @Field(() => String, { nullable: true, description: idempotencyKeyDescription })
  idempotencyKey?: string | null;
}

@InputType({ description: 'Grants to make: all of them or, where one is refused, none.' })
export class CreateGrantsInput extends CreateInput {
  @Field(() => [NewGrantInput], { description: 'At most 500.' })
  items!: NewGrantInput[];
}

@InputType({ description: 'Changes to a grant: absent fields keep their value. Subject, target and effect are fixed.' })
export class GrantChangeInput extends GrantFieldsInput {
  @Field(() => ID, { description: 'Id of the object to change.' })
  id!: string;

  @Field(() => Int, {
    nullable: true,
    description: 'Refuse with CONFLICT unless the object still has this revision.',
  })
  expectedRevision?: number | null;

  @Field(() => String, { nullable: true, description: 'What to call it: 1 to 128 characters.' })
  name?: string | null;
}

@InputType({ description: 'Changes to a grant: absent fields keep their value. Subject, target and effect are fixed.' })
export class UpdateGrantInput extends GrantChangeInput {
  @Field(() => Boolean, { defaultValue: false, description: dryRunDescription })
  dryRun!: boolean;
}

@InputType({ description: 'Grants to change: all of them or, where one is refused, none.' })
export class UpdateGrantsInput extends MutationInput {
  @Field(() => [GrantChangeInput], { description: 'At most 500.' })
  items!: GrantChangeInput[];
}

@InputType({ description: 'A grant of a list, by its id.' })
export class GrantReferenceInput extends ReferenceInput {}

@InputType({ description: 'Grants to delete: all of them or, where one is refused, none.' })
export class DeleteGrantsInput extends MutationInput {
  @Field(() => [GrantReferenceInput], { description: 'At most 500.' })
  items!: GrantReferenceInput[];
}

@InputType({ description: 'A grant to end now.' })
export class EndGrantInput extends ChangeInput {}

@InputType({ description: 'A grant to delete.' })
export class DeleteGrantInput extends ChangeInput {}
