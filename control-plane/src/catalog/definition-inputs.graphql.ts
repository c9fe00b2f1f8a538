import { Field, ID, InputType } from 'type-graphql';
import { ChangeInput } from '../graphql-connection.ts';
import { ToolLabelsInput } from './catalog.graphql.ts';

@InputType({ description: 'Definitions of one server. Id and expectedRevision are the server’s.' })
export class QuarantineDefinitionsInput extends ChangeInput {
  @Field(() => [ID], { description: 'Ids of the definitions, 1 to 1000.' })
  definitionIds!: string[];
}

@InputType({
  description: 'Definitions of one server to ask webhooks about. Id and expectedRevision are the server’s.',
})
export class AskWebhooksInput extends ChangeInput {
  @Field(() => [ID], { description: 'Ids of the definitions, 1 to 200.' })
  definitionIds!: string[];
}

@InputType({
  description:
    'Definitions of one server. Id and expectedRevision are the server’s: with the revision at which they were looked ' +
    'at, nothing else can be approved by mistake.',
})
export class ApproveDefinitionsInput extends QuarantineDefinitionsInput {
  @Field(() => Boolean, {
    nullable: true,
    description: 'Also go on serving what was approved before, for a server whose instances differ. False if absent.',
  })
  keepApproved?: boolean | null;

  @Field(() => [String], {
    nullable: true,
    description:
      'The digests that were looked at, of all the definitions together. Where one is sent in a wording that is not ' +
      'among them, nothing is approved. Needed unless expectedRevision is given.',
  })
  digests?: string[] | null;
}

@InputType({ description: 'Definitions of one server to refuse. Id and expectedRevision are the server’s.' })
export class RejectDefinitionsInput extends QuarantineDefinitionsInput {
  @Field(() => [String], {
    description:
      'The digests that were looked at, of all the definitions together. Where one is sent in a wording that is neither ' +
      'approved nor among them, nothing is refused.',
  })
  digests!: string[];
}

@InputType({ description: 'Tools of one server and what to say of them. Id and expectedRevision are the server’s.' })
export class LabelDefinitionsInput extends QuarantineDefinitionsInput {
  @Field(() => ToolLabelsInput, { description: 'The labels that all of them get.' })
  labels!: ToolLabelsInput;
}
