import { noAsks } from '@sallyport/schema';
import { Field, InputType, Int, ObjectType } from 'type-graphql';
import { ChangeInput } from '../graphql-connection.ts';

const fields = {
  sampling: 'Whether it may have the client’s model answer (sampling/createMessage).',
  roots: 'Whether it may ask for the client’s folders (roots/list).',
  elicitation: 'Whether it may ask the client’s user (elicitation/create).',
  perExchangeMax: `Most questions of one exchange; ${noAsks.perExchangeMax} if never given.`,
  samplingTokensMax: `Most maxTokens of one sampling request; ${noAsks.samplingTokensMax} if never given.`,
  bytesMax: `Size of one question in bytes; ${noAsks.bytesMax} if never given.`,
  elicitationHosts: 'Hosts to which it may send people, besides its own; by https alone.',
} as const;

@ObjectType({
  description:
    'What a server may ask of clients. What is not allowed is refused, and the server is not told that clients offer it.',
})
export class ServerAsks {
  @Field(() => Boolean, { description: fields.sampling })
  sampling!: boolean;

  @Field(() => Boolean, { description: fields.roots })
  roots!: boolean;

  @Field(() => Boolean, { description: fields.elicitation })
  elicitation!: boolean;

  @Field(() => Int, { description: fields.perExchangeMax })
  perExchangeMax!: number;

  @Field(() => Int, { description: fields.samplingTokensMax })
  samplingTokensMax!: number;

  @Field(() => Int, { description: fields.bytesMax })
  bytesMax!: number;

  @Field(() => [String], { description: fields.elicitationHosts })
  elicitationHosts!: string[];
}

@InputType({ description: 'What a server may ask of clients from now on; absent fields keep their value.' })
export class UpdateServerAsksInput extends ChangeInput {
  @Field(() => Boolean, { nullable: true, description: fields.sampling })
  sampling?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: fields.roots })
  roots?: boolean | null;

  @Field(() => Boolean, { nullable: true, description: fields.elicitation })
  elicitation?: boolean | null;

  @Field(() => Int, { nullable: true, description: fields.perExchangeMax })
  perExchangeMax?: number | null;

  @Field(() => Int, { nullable: true, description: fields.samplingTokensMax })
  samplingTokensMax?: number | null;

  @Field(() => Int, { nullable: true, description: fields.bytesMax })
  bytesMax?: number | null;

  @Field(() => [String], { nullable: true, description: fields.elicitationHosts })
  elicitationHosts?: string[] | null;
}
