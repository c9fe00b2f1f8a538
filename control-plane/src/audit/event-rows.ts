import type { AuditRecord, ClosedRecord, OpenedRecord, RefusedRecord, Verdict } from '@sallyport/schema';
import { copyField, type CopyValue } from './copy-rows.ts';
import { storableText } from './storable-text.ts';

/** A record that makes an event or completes one. */
export type ExchangeRecord = OpenedRecord | ClosedRecord | RefusedRecord;
/** Of what an exchange begins with, and of what it ends with; a refused one has both. */
type Opening = OpenedRecord | RefusedRecord;
type Closing = ClosedRecord | RefusedRecord;

type Type = 'text' | 'integer' | 'bigint' | 'double precision' | 'timestamptz' | 'text[]' | 'jsonb';
/** What a column holds of a record, and the column's type. Text may still be none that PostgreSQL can hold. */
type Columns<Source> = Readonly<Record<string, readonly [Type, (record: Source) => unknown]>>;

/** What an event is told apart by, beside the node and the epoch. */
const identity: Columns<ExchangeRecord> = {
  time: ['timestamptz', ({ time }) => new Date(time).toISOString()],
  id: ['text', ({ eventId }) => eventId],
  kind: ['text', () => 'exchange'],
};

const opening: Columns<Opening> = {
  principal_id: ['text', ({ principal }) => principal?.id],
  principal_kind: ['text', ({ principal }) => principal?.kind],
  principal_name: ['text', ({ principal }) => principal?.name],
  key_id: ['text', ({ principal }) => principal?.keyId],
  client_id: ['text', ({ principal }) => principal?.clientId],
  token_id: ['text', ({ principal }) => principal?.tokenId],
  client_address: ['text', ({ client }) => client.address],
  client_user_agent: ['text', ({ client }) => client.userAgent],
  client_info: ['text', ({ client }) => client.info],
  server_id: ['text', ({ server }) => server?.id],
  server_slug: ['text', ({ server }) => server?.slug],
  http_method: ['text', ({ httpMethod }) => (httpMethod === '' ? null : httpMethod)],
  method: ['text', ({ method }) => method],
  target_kind: ['text', ({ target }) => target?.kind],
  target_name: ['text', ({ target }) => target?.name],
  protocol_revision: ['text', ({ protocolRevision }) => protocolRevision],
  decision_effect: ['text', ({ decision }) => decision.effect],
  decision_reason: ['text', ({ decision }) => decision.reason],
  grant_ids: ['text[]', ({ decision }) => decision.grantIds],
  shadow: ['jsonb', ({ decision: { shadow } }) => shadow && { ...shadow, grantIds: shadow.grantIds.map(storableText) }],
  history_id: ['text', ({ config }) => config?.historyId],
  config_revision: ['bigint', ({ config }) => config?.revision],
  params_digest: ['text', ({ paramsDigest }) => paramsDigest],
  request_bytes: ['bigint', ({ requestBytes }) => requestBytes],
  trace_id: ['text', ({ traceId }) => traceId],
  credential_id: ['text', ({ credential }) => credential?.id],
  credential_mode: ['text', ({ credential }) => credential?.mode],
  credential_issuer: ['text', ({ credential }) => credential?.issuer],
  capture: ['jsonb', ({ capture }) => capture && { request: text(capture.request), response: text(capture.response) }],
};

const closing: Columns<Closing> = {
  outcome: ['text', ({ outcome }) => outcome],
  status: ['integer', ({ status }) => status],
  rpc_error_code: ['bigint', ({ rpcErrorCode }) => rpcErrorCode],
  error_code: ['text', ({ errorCode }) => errorCode],
  response_bytes: ['bigint', ({ responseBytes }) => responseBytes],
  duration_ms: ['double precision', ({ durationMs }) => durationMs],
  first_byte_ms: ['double precision', ({ firstByteMs }) => firstByteMs],
  upstream_ms: ['double precision', ({ upstreamMs }) => upstreamMs],
  upstream_requests: ['text[]', ({ upstreamRequests }) => upstreamRequests],
  verdicts: ['jsonb', ({ verdicts }) => verdicts?.map(storableVerdict)],
};

const columns: Readonly<Record<string, Type>> = {
  ...typesOf(identity),
  node_id: 'text',
  epoch: 'text',
  ...typesOf(opening),
  ...typesOf(closing),
};
const names = Object.keys(columns);
const completed = [...Object.keys(opening), ...Object.keys(closing)];

function typesOf<Source>(table: Columns<Source>): Record<string, Type> {
  return Object.fromEntries(Object.entries(table).map(([name, [type]]) => [name, type]));
}

/** Of what an exchange closes with, the stored value gives way only while the outcome is open or unknown. */
function assignment(column: string): string {
  if (column === 'grant_ids') {
    return 'grant_ids = case when e.decision_effect is null then excluded.grant_ids else e.grant_ids end';
  }
  if (column === 'outcome') {
    return `outcome = case when e.outcome is null or e.outcome = 'unknown' then coalesce(excluded.outcome, e.outcome) else e.outcome end`;
  }
  return `${column} = coalesce(e.${column}, excluded.${column})`;
}

/**
 * Inserts rows given as a JSON array ($1), or completes those that are there: `opened` and `closed` of an exchange may
 * come in any order and any number of times. A row of another node or epoch is left alone and not returned.
 */
export const upsertEvents = `
  insert into audit_events as e (${names.join(', ')})
  select ${names.map((name) => (name === 'grant_ids' ? `coalesce(${name}, '{}')` : name)).join(', ')}
  from jsonb_to_recordset($1::text::jsonb) as x(${names.map((name) => `${name} ${columns[name]}`).join(', ')})
  on conflict (time, id) do update set ${completed.map(assignment).join(', ')}
  where e.node_id = excluded.node_id and e.epoch = excluded.epoch
  returning id`;

/** One exchange as far as some lines of a chain tell of it. */
export interface Exchange {
  readonly id: string;
  opening: Opening | undefined;
  closing: Closing | undefined;
  /** Of its lines. */
  readonly sequences: number[];
}

/** The chain that the records of exchanges stand in. */
export interface Chain {
  readonly nodeId: string;
  readonly epoch: string;
}

/** Which exchanges the records are of, one of each: a statement cannot touch a row twice. */
export function exchangesOf(
  lines: readonly { readonly sequence: number; readonly record: AuditRecord | undefined }[],
): readonly Exchange[] {
  const exchanges = new Map<string, Exchange>();
  for (const { record, sequence } of lines) {
    if (record === undefined || !isOfExchange(record)) continue;
    const id = storableText(record.eventId);
    const key = `${record.time} ${id}`;
    let exchange = exchanges.get(key);
    if (exchange === undefined) {
      exchange = { id, opening: undefined, closing: undefined, sequences: [] };
      exchanges.set(key, exchange);
    }
    if (record.type !== 'closed') exchange.opening = record;
    if (record.type !== 'opened') exchange.closing = record;
    exchange.sequences.push(sequence);
  }
  return [...exchanges.values()];
}

function isOfExchange(record: AuditRecord): record is ExchangeRecord {
  return record.type === 'opened' || record.type === 'closed' || record.type === 'refused';
}

/** What `upsertEvents` takes of an exchange. */
export function eventRow(exchange: Exchange, chain: Chain): Readonly<Record<string, unknown>> {
  const row: Record<string, unknown> = { node_id: chain.nodeId, epoch: chain.epoch };
  const put = <Source>(table: Columns<Source>, record: Source | undefined): void => {
    if (record === undefined) return;
    for (const [name, [type, valueOf]] of Object.entries(table)) row[name] = storable(type, valueOf(record));
  };
  put(identity, exchange.opening ?? exchange.closing);
  put(opening, exchange.opening);
  put(closing, exchange.closing);
  return row;
}

/** What `copyLine` gives, in its order. */
export const copyColumns = [
  'node_id, epoch, stored_at',
  ...[identity, opening, closing].map((table) => Object.keys(table).join(', ')),
].join(', ');

/** Tables as lists, which are quicker to go through. */
const copied = { identity: valuesOf(identity), opening: valuesOf(opening), closing: valuesOf(closing) };

function valuesOf<Source>(table: Columns<Source>): Columns<Source>[string][] {
  return Object.values(table);
}

/** An exchange that was opened, as a line of PostgreSQL's COPY. @param head of its line: node, epoch and time of storing */
export function copyLine(exchange: Exchange & { readonly opening: Opening }, head: string): string {
  return `${head}${copyOf(copied.identity, exchange.opening)}${copyOf(copied.opening, exchange.opening)}${copyOf(copied.closing, exchange.closing)}\n`;
}

/** Fields, each with the tab before it. */
function copyOf<Source>(table: readonly Columns<Source>[string][], record: Source | undefined): string {
  let fields = '';
  for (const [type, valueOf] of table) {
    const value = record === undefined ? null : storable(type, valueOf(record));
    fields += `\t${copyField(type === 'jsonb' && value !== null ? JSON.stringify(value) : (value as CopyValue))}`;
  }
  return fields;
}

function storable(type: Type, value: unknown): unknown {
  if (value === undefined || value === null) return null;
  if (typeof value === 'string') return storableText(value);
  return type === 'text[]' ? (value as readonly string[]).map(storableText) : value;
}

function text(value: string | null): string | null {
  return value === null ? null : storableText(value);
}

function storableVerdict(verdict: Verdict): Verdict {
  return {
    ...verdict,
    policyId: text(verdict.policyId),
    ...(verdict.webhookId === undefined ? {} : { webhookId: storableText(verdict.webhookId) }),
    version: storableText(verdict.version),
    reason: storableText(verdict.reason),
    places: verdict.places.map((place) => ({ ...place, path: storableText(place.path) })),
  };
}
