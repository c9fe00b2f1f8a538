import { Arg, Args, Ctx, FieldResolver, Mutation, Query, Resolver, Root } from 'type-graphql';
import { AuditEvent } from '../audit/audit.graphql.ts';
import type { Context } from '../context.ts';
import { batchedRows } from '../database/batched.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import {
  AuditEventPayload,
  ErasePayloadsInput,
  ErasePayloadsPayload,
  PayloadConnection,
  PayloadContent,
  PayloadsArguments,
  ReadPayloadArguments,
} from './capture.graphql.ts';
import type { PayloadRow } from './capture.tables.ts';
import type { Erasure, PayloadService } from './payload.service.ts';
import type { CapturedEvent, EventPayload, PayloadStore } from './payload-store.service.ts';

@Resolver(() => AuditEvent)
export class CaptureResolver {
  private readonly payloads: PayloadService;
  private readonly payloadsOf: (event: CapturedEvent) => Promise<readonly EventPayload[] | undefined>;

  constructor({ payloads, payloadStore }: { readonly payloads: PayloadService; readonly payloadStore: PayloadStore }) {
    this.payloads = payloads;
    this.payloadsOf = batchedRows((events) => payloadStore.ofEvents(events));
  }

  @Query(() => PayloadConnection, {
    name: 'payloads',
    description: 'Captured payloads, newest first; not what they say.',
  })
  async list(
    @Ctx() ctx: Context,
    @Args(() => PayloadsArguments) args: PayloadsArguments,
  ): Promise<ConnectionOf<PayloadRow>> {
    const page = pageOf(args, 3, false);
    const rows = await this.payloads.list(ctx, args, page);
    return connectionFrom(rows, page, (row) => [String(row.time.getTime()), row.eventId, row.direction]);
  }

  @Query(() => PayloadContent, {
    description: 'Opens a captured payload. Each call is an event of the audit trail, as is each page.',
  })
  async readPayload(
    @Ctx() ctx: Context,
    @Args(() => ReadPayloadArguments) args: ReadPayloadArguments,
  ): Promise<PayloadContent> {
    const page = pageOf(args, 1, false);
    const { row, messages } = await this.payloads.read(ctx, args);
    const rest = messages.map((text, index) => ({ text, index })).slice(Number(page.after?.[0] ?? -1) + 1);
    const { edges, pageInfo } = connectionFrom(rest.slice(0, page.limit + 1), page, ({ index }) => [String(index)]);
    const { endCursor, hasNextPage } = pageInfo;
    return { payload: row, messages: edges.map(({ node }) => node.text), endCursor, hasNextPage };
  }

  @Mutation(() => ErasePayloadsPayload, {
    description: 'Erases captured payloads; that there were some, and their sizes, stay known.',
  })
  erasePayloads(
    @Ctx() ctx: Context,
    @Arg('input', () => ErasePayloadsInput, { description: 'Which, and why.' }) input: ErasePayloadsInput,
  ): Promise<Erasure> {
    return this.payloads.erase(ctx, input);
  }

  @FieldResolver(() => [AuditEventPayload], {
    name: 'payloads',
    description: 'What has become of its messages where policies had them captured; none where no policy had.',
  })
  async eventPayloads(@Root() event: CapturedEvent): Promise<readonly EventPayload[]> {
    return event.capture === null ? [] : ((await this.payloadsOf(event)) ?? []);
  }
}
