import type { IncomingMessage, ServerResponse } from 'node:http';
import { AppError, type ErrorCode, type scimRoutes, toAppError } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { type Context, createContext } from '../../context.ts';
import { isConnectionFailure } from '../../database/client.ts';
import { type RequestLimits, retryAfterOf } from '../../request-limits.ts';
import type { GuardedAuthentication } from '../guarded-authentication.ts';
import { resourceTypes, schemaDocuments, serviceProviderConfig } from './discovery.ts';
import { groupSchema, parseGroup } from './group-resource.ts';
import { isShown, listSchema, type Page, type Projection, project, queryOf, searchOf } from './list.ts';
import { parsePatch } from './patch.ts';
import type { ScimGroup, ScimGroupService } from './scim-group.service.ts';
import { assertSafe, type Json } from './scim-json.ts';
import { scimProblem, type ScimType, scimTypeOf } from './scim-problem.ts';
import type { Directory, Precondition, ScimUser, ScimUserService } from './scim-user.service.ts';
import type { OpenedDirectory } from './token.service.ts';
import { enterpriseSchema, parseUser, userSchema } from './user-resource.ts';

const scimPath = '/scim/v2';
const errorSchema = 'urn:ietf:params:scim:api:messages:2.0:Error';
/** Enough for a group of fifty thousand. */
const bodyBytesMax = 8 * 1024 * 1024;

export interface ScimEndpointOptions {
  readonly users: ScimUserService;
  readonly groups: ScimGroupService;
  readonly authentication: Pick<GuardedAuthentication<OpenedDirectory>, 'actorFor'>;
  readonly limits: RequestLimits;
  /** Who asks; null where that cannot be told. */
  readonly addressOf: (request: IncomingMessage) => string | null;
  /** The control plane as the world reaches it, without a slash at the end; for `location` and `$ref`. */
  readonly publicUrl: () => string;
  readonly clock: Clock;
  readonly log: Log;
}

interface Answer {
  readonly status: number;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A request whose token was accepted. */
interface Call {
  readonly options: ScimEndpointOptions;
  readonly ctx: Context;
  readonly directory: Directory;
  readonly base: string;
  readonly request: IncomingMessage;
  readonly parameters: URLSearchParams;
  readonly precondition: Precondition;
  readonly body: () => Promise<Json>;
}

type Handler = (call: Call, id: string) => Promise<Answer>;

type RouteName = keyof typeof scimRoutes;
type MethodOf<Name extends RouteName> = (typeof scimRoutes)[Name]['methods'][number];
type RequestHandler = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

const routes: { readonly [Name in RouteName]: Readonly<Record<MethodOf<Name>, Handler>> } = {
  scimServiceProviderConfig: { GET: async ({ base }) => ({ status: 200, body: serviceProviderConfig(base) }) },
  scimResourceTypes: { GET: async (call) => listed(call, resourceTypes(call.base)) },
  scimResourceType: { GET: async (call, id) => one(resourceTypes(call.base), id) },
  scimSchemas: { GET: async (call) => listed(call, schemaDocuments(call.base)) },
  scimSchema: { GET: async (call, id) => one(schemaDocuments(call.base), id) },
  scimUserSearch: { POST: searchUsers },
  scimUsers: { GET: listUsers, POST: createUser },
  scimUser: { GET: getUser, PUT: replaceUser, PATCH: patchUser, DELETE: deleteUser },
  scimGroupSearch: { POST: searchGroups },
  scimGroups: { GET: listGroups, POST: createGroup },
  scimGroup: { GET: getGroup, PUT: replaceGroup, PATCH: patchGroup, DELETE: deleteGroup },
};

/** SCIM 2.0 (RFC 7644) for directories: every request needs a SCIM token, and sees what its directory provisions. */
export function scimHandlers(options: ScimEndpointOptions): Record<RouteName, RequestHandler> {
  const entries = Object.entries(routes).map(([name, handlers]: [string, Readonly<Record<string, Handler>>]) => {
    const handler: RequestHandler = (request, response) => serve(options, handlers, request, response);
    return [name, handler] as const;
  });
  return Object.fromEntries(entries) as Record<RouteName, RequestHandler>;
}

async function serve(
  options: ScimEndpointOptions,
  handlers: Readonly<Record<string, Handler>>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { log } = options;
  try {
    const from = options.addressOf(request);
    options.limits.assertNetworkMayAsk(from);
    const match = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '');
    if (match?.[1] === undefined) throw new AppError('UNAUTHENTICATED', { internal: 'no bearer token' });
    const { directory, actor } = await options.authentication.actorFor(match[1], from);
    options.limits.assertHolderMayAsk(`directory ${directory.id}`);
    const handler = handlers[request.method ?? ''];
    if (handler === undefined) throw new AppError('METHOD_NOT_ALLOWED');
    const url = new URL(request.url ?? '', 'http://localhost');
    const call: Call = {
      options,
      ctx: createContext(actor, { clock: options.clock, log }),
      directory,
      base: `${options.publicUrl()}${scimPath}`,
      request,
      parameters: url.searchParams,
      precondition: preconditionOf(request),
      body: () => readJson(request),
    };
    write(response, await handler(call, idOf(url.pathname)));
  } catch (thrown) {
    write(response, failure(thrown, log));
  }
}

/** The last segment: what stands for `{id}`, where the route has one. */
function idOf(path: string): string {
  try {
    return decodeURIComponent(path.slice(path.lastIndexOf('/') + 1));
  } catch {
    throw new AppError('NOT_FOUND');
  }
}

function etagOf(revision: number): string {
  return `W/"${revision}"`;
}

/** `If-Match` (RFC 7644 §3.14): one of the versions named must be the present one. */
function preconditionOf(request: IncomingMessage): Precondition {
  const header = request.headers['if-match'];
  return (revision) => {
    if (header === undefined || matches(header, revision)) return;
    throw scimProblem('versionMismatch', 'the resource was changed since it was read: read it again');
  };
}

function matches(header: string, revision: number): boolean {
  const tags = header.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  return tags.includes('*') || tags.includes(`"${revision}"`);
}

async function readJson(request: IncomingMessage): Promise<Json> {
  const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  if (type !== 'application/scim+json' && type !== 'application/json') {
    throw new AppError('UNSUPPORTED_MEDIA_TYPE', { publicMessage: 'Send application/scim+json.' });
  }
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bodyBytesMax) throw new AppError('BODY_TOO_LARGE');
    chunks.push(chunk);
  }
  let body: Json;
  try {
    body = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw scimProblem('invalidSyntax', 'the body is not JSON');
  }
  assertSafe(body);
  return body;
}

function write(response: ServerResponse, { status, body, headers }: Answer): void {
  if (response.destroyed) return;
  const text = body === undefined ? '' : JSON.stringify(body);
  response.writeHead(status, {
    ...(body === undefined ? {} : { 'content-type': 'application/scim+json' }),
    'cache-control': 'no-store',
    ...headers,
  });
  response.end(text);
}

/** What the other side of a refusal is told where the catalogue's words are about API keys. */
const details: Partial<Record<ErrorCode, string>> = {
  UNAUTHENTICATED: 'A SCIM token is required.',
  FORBIDDEN: 'This user or group may do more than whoever made the SCIM token: somebody who may do as much rotates it.',
};

const statuses: Partial<Record<ScimType, number>> = { uniqueness: 409, versionMismatch: 412 };

/** The error of RFC 7644 §3.12. */
function failure(thrown: unknown, log: Log): Answer {
  const error = isConnectionFailure(thrown) ? new AppError('NOT_READY', { cause: thrown }) : toAppError(thrown);
  if (error.entry.owner === 'platform') log.error({ err: error.cause ?? error }, 'SCIM failed');
  const scimType = scimTypeOf(error);
  const status = (scimType === undefined ? undefined : statuses[scimType]) ?? error.entry.http;
  const violations = error.violations?.map(({ path, message }) => `${path} ${message}`).join('; ');
  const isOwnText = error.publicMessage !== error.entry.publicMessage;
  const detail = violations ?? (isOwnText ? undefined : details[error.code]) ?? error.publicMessage;
  return {
    status,
    body: {
      schemas: [errorSchema],
      status: String(status),
      ...(scimType === undefined || scimType === 'versionMismatch' ? {} : { scimType }),
      detail,
    },
    headers: {
      ...(error.code === 'UNAUTHENTICATED' ? { 'www-authenticate': 'Bearer realm="SCIM"' } : {}),
      ...(error.code === 'RATE_LIMITED' ? { 'retry-after': retryAfterOf(error) } : {}),
      ...(error.code === 'BODY_TOO_LARGE' ? { connection: 'close' } : {}),
    },
  };
}

/** A list of what never changes. It takes no filter (RFC 7644 §4). */
function listed({ parameters }: Call, documents: readonly Readonly<Record<string, unknown>>[]): Answer {
  if (parameters.has('filter')) {
    throw new AppError('FORBIDDEN', { publicMessage: 'This list cannot be filtered.' });
  }
  const body = {
    schemas: [listSchema],
    totalResults: documents.length,
    startIndex: 1,
    itemsPerPage: documents.length,
    Resources: documents,
  };
  return { status: 200, body };
}

function one(documents: readonly Readonly<Record<string, unknown>>[], id: string): Answer {
  const body = documents.find((document) => document['id'] === id);
  if (body === undefined) throw new AppError('NOT_FOUND');
  return { status: 200, body };
}

function page(total: number, startIndex: number, resources: readonly Record<string, unknown>[]): Answer {
  const body = {
    schemas: [listSchema],
    totalResults: total,
    startIndex,
    itemsPerPage: resources.length,
    Resources: resources,
  };
  return { status: 200, body };
}

type Shown = Readonly<Record<string, unknown>>;

/** A resource with its version; 304 where the caller has this one already. */
function shown(call: Call, status: 200 | 201, resource: Shown, projection: Projection): Answer {
  const { location, version } = resource['meta'] as { location: string; version: string };
  const known = call.request.headers['if-none-match'];
  const isKnown = call.request.method === 'GET' && known !== undefined && matches(known, Number(/\d+/.exec(version)));
  const headers = { etag: version, ...(status === 201 ? { location } : {}) };
  return isKnown ? { status: 304, headers } : { status, body: project(resource, projection), headers };
}

function meta(
  call: Call,
  kind: 'User' | 'Group',
  row: { id: string; revision: number; createdAt: Date; updatedAt: Date },
) {
  return {
    resourceType: kind,
    created: row.createdAt.toISOString(),
    lastModified: row.updatedAt.toISOString(),
    location: `${call.base}/${kind}s/${row.id}`,
    version: etagOf(row.revision),
  };
}

async function userResources(call: Call, users: readonly ScimUser[], projection: Projection): Promise<Shown[]> {
  const ids = users.map(({ principal }) => principal.id);
  const groups = isShown(projection, 'groups') ? await call.options.users.groupsOf(ids) : new Map<string, never>();
  return users.map(({ principal, said }) => ({
    schemas: [userSchema, ...(said.attributes[enterpriseSchema] === undefined ? [] : [enterpriseSchema])],
    id: principal.id,
    ...(said.externalId === null ? {} : { externalId: said.externalId }),
    userName: said.userName,
    active: said.active,
    ...said.attributes,
    groups: (groups.get(principal.id) ?? []).map(({ id, name }: { id: string; name: string }) => ({
      value: id,
      display: name,
      $ref: `${call.base}/Groups/${id}`,
      type: 'direct',
    })),
    meta: meta(call, 'User', principal),
  }));
}

async function oneUser(call: Call, status: 200 | 201, user: ScimUser): Promise<Answer> {
  const projection = queryOf(call.parameters);
  const [resource = {}] = await userResources(call, [user], projection);
  return shown(call, status, resource, projection);
}

async function pageOfUsers(call: Call, query: ReturnType<typeof queryOf>): Promise<Answer> {
  const { total, rows }: Page<ScimUser> = await call.options.users.list(call.directory, query);
  const resources = await userResources(call, rows, query);
  return page(
    total,
    query.startIndex,
    resources.map((resource) => project(resource, query)),
  );
}

async function listUsers(call: Call): Promise<Answer> {
  return pageOfUsers(call, queryOf(call.parameters));
}

async function searchUsers(call: Call): Promise<Answer> {
  return pageOfUsers(call, searchOf(await call.body()));
}

async function createUser(call: Call): Promise<Answer> {
  const body = parseUser(await call.body());
  return oneUser(call, 201, await call.options.users.create(call.ctx, call.directory, body));
}

async function getUser(call: Call, id: string): Promise<Answer> {
  return oneUser(call, 200, await call.options.users.get(call.directory, id));
}

async function replaceUser(call: Call, id: string): Promise<Answer> {
  const body = parseUser(await call.body());
  const { ctx, directory, precondition } = call;
  return oneUser(call, 200, await call.options.users.replace(ctx, directory, id, body, precondition));
}

async function patchUser(call: Call, id: string): Promise<Answer> {
  const operations = parsePatch(await call.body());
  const { ctx, directory, precondition } = call;
  return oneUser(call, 200, await call.options.users.patch(ctx, directory, id, operations, precondition));
}

async function deleteUser(call: Call, id: string): Promise<Answer> {
  await call.options.users.delete(call.ctx, call.directory, id, call.precondition);
  return { status: 204 };
}

async function groupResources(call: Call, groups: readonly ScimGroup[], projection: Projection): Promise<Shown[]> {
  const withMembers = isShown(projection, 'members');
  const members = withMembers ? await call.options.groups.membersOf(groups.map(({ group }) => group.id)) : undefined;
  return groups.map(({ group, said }) => ({
    schemas: [groupSchema],
    id: group.id,
    ...(said.externalId === null ? {} : { externalId: said.externalId }),
    displayName: group.name,
    ...(members === undefined
      ? {}
      : {
          members: (members.get(group.id) ?? []).map(({ id, name }) => ({
            value: id,
            display: name,
            $ref: `${call.base}/Users/${id}`,
            type: 'User',
          })),
        }),
    meta: meta(call, 'Group', group),
  }));
}

async function oneGroup(call: Call, status: 200 | 201, group: ScimGroup): Promise<Answer> {
  const projection = queryOf(call.parameters);
  const [resource = {}] = await groupResources(call, [group], projection);
  return shown(call, status, resource, projection);
}

async function pageOfGroups(call: Call, query: ReturnType<typeof queryOf>): Promise<Answer> {
  const { total, rows }: Page<ScimGroup> = await call.options.groups.list(call.directory, query);
  const resources = await groupResources(call, rows, query);
  return page(
    total,
    query.startIndex,
    resources.map((resource) => project(resource, query)),
  );
}

async function listGroups(call: Call): Promise<Answer> {
  return pageOfGroups(call, queryOf(call.parameters));
}

async function searchGroups(call: Call): Promise<Answer> {
  return pageOfGroups(call, searchOf(await call.body()));
}

async function createGroup(call: Call): Promise<Answer> {
  const body = parseGroup(await call.body());
  return oneGroup(call, 201, await call.options.groups.create(call.ctx, call.directory, body));
}

async function getGroup(call: Call, id: string): Promise<Answer> {
  return oneGroup(call, 200, await call.options.groups.get(call.directory, id));
}

async function replaceGroup(call: Call, id: string): Promise<Answer> {
  const body = parseGroup(await call.body());
  const { ctx, directory, precondition } = call;
  return oneGroup(call, 200, await call.options.groups.replace(ctx, directory, id, body, precondition));
}

/** Answers 204, as RFC 7644 §3.5.2 allows: a group of many need not be sent back for each member that is added. */
async function patchGroup(call: Call, id: string): Promise<Answer> {
  const operations = parsePatch(await call.body());
  const { ctx, directory, precondition } = call;
  const changed = await call.options.groups.patch(ctx, directory, id, operations, precondition);
  if (call.parameters.has('attributes')) return oneGroup(call, 200, changed);
  return { status: 204, headers: { etag: etagOf(changed.group.revision) } };
}

async function deleteGroup(call: Call, id: string): Promise<Answer> {
  await call.options.groups.delete(call.ctx, call.directory, id, call.precondition);
  return { status: 204 };
}
