import type { FindingSeverity } from '@sallyport/schema';
import { Field, Float, ID, Int, ObjectType } from 'type-graphql';
import { DateTime, graphqlEnum, Json } from '../graphql-connection.ts';
import type { KeptVerdict } from '../inspection/definition-hooks.service.ts';
import { DriftClassEnum } from './catalog.graphql.ts';
import type { DriftClass } from './catalog.tables.ts';

export const FindingSeverityEnum = graphqlEnum<FindingSeverity>('FindingSeverity', 'How bad what was seen is.', {
  low: 'Worth knowing.',
  medium: 'Worth a look.',
  high: 'Likely an attack.',
  critical: 'An attack, or what nobody has a good reason for.',
});

@ObjectType({ description: 'Something that the scan of a definition saw.' })
export class DefinitionFinding {
  @Field(() => String, {
    description:
      'What saw it: hiddenText, injection, secret, link, schema, name, shadow, icon, app, or scan where that failed.',
  })
  detector!: string;

  @Field(() => String, { description: 'What it is, such as zeroWidth or readSecret.' })
  category!: string;

  @Field(() => FindingSeverityEnum, {
    description: 'HIGH and CRITICAL quarantine a definition until it is approved by hand.',
  })
  severity!: FindingSeverity;

  @Field(() => String, { description: 'JSON pointer to the string it is in; empty for the whole definition.' })
  path!: string;

  @Field(() => Int, { description: 'Where it begins in that string, in UTF-16 code units.' })
  start!: number;

  @Field(() => Int, { description: 'Where it ends; exclusive.' })
  end!: number;
}

@ObjectType({ description: 'A definition as the upstream sent it.' })
export class DefinitionBody {
  @Field(() => String, { description: 'SHA-256 of the object in canonical form, as sha256:<hex>.' })
  digest!: string;

  @Field(() => Json, { description: 'The object, with every member it was sent with.' })
  raw!: unknown;

  @Field(() => [DefinitionFinding], { description: 'What the scan saw in it, the worst first; at most 100.' })
  findings!: readonly DefinitionFinding[];
}

@ObjectType({ description: 'One place in which a wording differs from an approved one.' })
export class DefinitionDifference {
  @Field(() => String, { description: 'JSON pointer to it; empty for the whole definition.' })
  path!: string;

  @Field(() => Json, { nullable: true, description: 'What is approved there; null where nothing is.' })
  before!: unknown;

  @Field(() => Json, { nullable: true, description: 'What is sent now; null where nothing is.' })
  after!: unknown;

  @Field(() => DriftClassEnum, { description: 'How far this difference alone leads.' })
  class!: DriftClass;
}

@ObjectType({ description: 'How a wording that is sent, and not approved, differs from the nearest that is.' })
export class DefinitionDrift {
  @Field(() => String, { description: 'Digest of what is sent; pass it to approveDefinitions or rejectDefinitions.' })
  digest!: string;

  @Field(() => String, { description: 'Digest of the approved wording it is held against.' })
  approvedDigest!: string;

  @Field(() => DriftClassEnum, {
    description: 'The worst of the differences, or worse, by what the scan sees in the new wording alone.',
  })
  class!: DriftClass;

  @Field(() => [DefinitionDifference], { description: 'At most 500, in the order of their paths.' })
  differences!: readonly DefinitionDifference[];
}

export const DefinitionDecisionEnum = graphqlEnum<KeptVerdict['decision']>(
  'DefinitionDecision',
  'What a webhook said of a definition.',
  {
    allow: 'It may be approved.',
    deny: 'It may not: it is quarantined, and approved by nobody as long as the webhook is in force and says so.',
    failure: 'There is no verdict; where the webhook does not fail open, it waits for one.',
  },
);

@ObjectType({ description: 'What a webhook said of one wording of a definition.' })
export class DefinitionVerdict {
  @Field(() => String, { description: 'The wording.' })
  digest!: string;

  @Field(() => ID, { description: 'Id of the webhook.' })
  webhookId!: string;

  @Field(() => Int, {
    description: 'Revision of the webhook when it was asked; in another one it has to be asked again.',
  })
  webhookRevision!: number;

  @Field(() => DefinitionDecisionEnum, { description: 'What it said.' })
  decision!: KeptVerdict['decision'];

  @Field(() => String, { description: 'The reason it gave; of a failure what failed, such as timeout.' })
  reason!: string;

  @Field(() => Float, { description: 'Milliseconds that it took.' })
  durationMs!: number;

  @Field(() => DateTime, { description: 'When it was asked.' })
  askedAt!: Date;
}
