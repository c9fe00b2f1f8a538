import { grantEffects } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Query, Resolver, Root, Subscription } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, Json, pageOf } from '../graphql-connection.ts';
import {
  AuditClient,
  AuditCredential,
  AuditDecisionRecord,
  AuditEvent,
  AuditEventConnection,
  AuditEventFilterArguments,
  AuditEventsArguments,
  AuditObject,
  AuditPrincipal,
  AuditServer,
  AuditTarget,
} from './audit.graphql.ts';
import type { AuditEventRow } from './audit.tables.ts';
import { type EventQueryService, matchesFilter } from './event-query.service.ts';

const decisionEffects = [...grantEffects, 'none'] as const;
const targetKinds = ['tool', 'prompt', 'resource'] as const;

@Resolver(() => AuditEvent)
export class AuditResolver {
  private readonly events: EventQueryService;

  constructor(services: { readonly events: EventQueryService }) {
    this.events = services.events;
  }

  @Query(() => AuditEventConnection, {
    name: 'auditEvents',
    description:
      'Audit events, newest first. A page may hold fewer than asked for, even none, where few of many events match: ' +
      'go on after its endCursor while hasNextPage is true.',
  })
  async list(
    @Ctx() ctx: Context,
    @Args(() => AuditEventsArguments) args: AuditEventsArguments,
  ): Promise<ConnectionOf<AuditEventRow>> {
    const page = pageOf(args, 2, false);
    const { rows, stoppedAt } = await this.events.list(ctx, args, page);
    return connectionFrom(rows, page, (row) => [String(row.time.getTime()), row.id], stoppedAt);
  }

  @Query(() => AuditEvent, { description: 'An audit event by its id.' })
  auditEvent(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the event.' }) id: string,
  ): Promise<AuditEventRow> {
    return this.events.get(ctx, id);
  }

  @Subscription(() => AuditEvent, {
    topics: 'auditEventAdded',
    filter: ({ payload, args }: { payload: AuditEventRow; args: AuditEventFilterArguments }) =>
      matchesFilter(payload, args),
    description: 'Audit events as they are stored, each once: an exchange that goes on comes without its outcome.',
  })
  auditEventAdded(
    @Root() row: AuditEventRow,
    @Args(() => AuditEventFilterArguments) _filter: AuditEventFilterArguments,
  ): AuditEventRow {
    return row;
  }

  @FieldResolver(() => AuditPrincipal, { nullable: true, description: 'Who did it; null where authentication failed.' })
  principal(@Root() row: AuditEventRow): AuditPrincipal | null {
    const { principalId, principalKind, principalName, keyId, clientId, tokenId } = row;
    if (principalId === null) return null;
    return { id: principalId, kind: principalKind ?? '', name: principalName ?? '', keyId, clientId, tokenId };
  }

  @FieldResolver(() => AuditClient, { nullable: true, description: 'The client of an exchange.' })
  client(@Root() row: AuditEventRow): AuditClient | null {
    if (row.kind !== 'exchange') return null;
    return { address: row.clientAddress, userAgent: row.clientUserAgent, info: row.clientInfo };
  }

  @FieldResolver(() => AuditServer, { nullable: true, description: 'The server of an exchange.' })
  server(@Root() row: AuditEventRow): AuditServer | null {
    return row.serverSlug === null ? null : { id: row.serverId, slug: row.serverSlug };
  }

  @FieldResolver(() => AuditCredential, {
    nullable: true,
    description:
      'What the server was called with in an exchange; null where with nothing, or it did not come that far.',
  })
  credential(@Root() row: AuditEventRow): AuditCredential | null {
    if (row.credentialMode === null) return null;
    return { id: row.credentialId, mode: row.credentialMode, issuer: row.credentialIssuer };
  }

  @FieldResolver(() => AuditTarget, { nullable: true, description: 'What a call names.' })
  target(@Root() row: AuditEventRow): AuditTarget | null {
    const kind = targetKinds.find((known) => known === row.targetKind);
    return kind === undefined ? null : { kind, name: row.targetName ?? '' };
  }

  @FieldResolver(() => AuditDecisionRecord, { nullable: true, description: 'What was decided about an exchange.' })
  decision(@Root() row: AuditEventRow): AuditDecisionRecord | null {
    const effect = decisionEffects.find((known) => known === row.decisionEffect);
    if (effect === undefined) return null;
    return { effect, reason: row.decisionReason ?? '', grantIds: row.grantIds, shadow: row.shadow };
  }

  @FieldResolver(() => AuditObject, { nullable: true, description: 'What it was done to.' })
  object(@Root() row: AuditEventRow): AuditObject | null {
    return row.objectKind === null ? null : { kind: row.objectKind, id: row.objectId ?? '' };
  }

  @FieldResolver(() => Json, { nullable: true, description: 'The object before the change, without secrets.' })
  before(@Root() row: AuditEventRow): unknown {
    return row.beforeJson === null ? null : JSON.parse(row.beforeJson);
  }

  @FieldResolver(() => Json, { nullable: true, description: 'The object after the change, without secrets.' })
  after(@Root() row: AuditEventRow): unknown {
    return row.afterJson === null ? null : JSON.parse(row.afterJson);
  }
}
