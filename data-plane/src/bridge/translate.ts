/**
 * What one message of an era is in the other: pure, message by message. The order of messages is for
 * `legacy-to-modern.ts` and `modern-to-legacy.ts`.
 */
import { modernRevisions, paramHeaders, type ParamHeader, type ProtocolRevision } from '@sallyport/schema';
import { isObject, objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { mirroredHeader, mirroredValue } from '../mcp/headers.ts';
import { clientCapabilitiesKey, clientInfoKey, nameSources, protocolVersionKey } from '../mcp/revision.ts';
import { crossing, type ClientProfile } from './client-profile.ts';

export const logLevelKey = 'io.modelcontextprotocol/logLevel';
export const serverInfoKey = 'io.modelcontextprotocol/serverInfo';
export const subscriptionIdKey = 'io.modelcontextprotocol/subscriptionId';

/** Least serious first (RFC 5424). */
export const logLevels = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency'] as const;
export type LogLevel = (typeof logLevels)[number];

export function isLogLevel(value: unknown): value is LogLevel {
  return (logLevels as readonly unknown[]).includes(value);
}

/**
 * The `params` of a call without what it says of legacy tasks, which are not carried: it runs like any other
 * (2025-11-25 basic/utilities/tasks). No other method of a client has them.
 */
export function withoutTask(method: string, params: JsonObject): JsonObject {
  if (method !== 'tools/call' || !('task' in params)) return params;
  const { task: _task, ...others } = params;
  return others;
}

/** The results that carry hints for caches (2026-07-28 server/utilities/caching). */
const cacheable: ReadonlySet<string> = new Set([
  'server/discover',
  'tools/list',
  'prompts/list',
  'resources/list',
  'resources/templates/list',
  'resources/read',
]);

/** The `params` of a legacy request as a modern one has them. */
export function modernParams(params: JsonObject, client: ClientProfile, logLevel: LogLevel | null): JsonObject {
  return {
    ...params,
    _meta: {
      ...objectMember(params, '_meta'),
      [protocolVersionKey]: modernRevisions[0],
      [clientCapabilitiesKey]: client.capabilities,
      ...(client.info === null ? {} : { [clientInfoKey]: client.info }),
      ...(logLevel === null ? {} : { [logLevelKey]: logLevel }),
    },
  };
}

/** The `params` of a modern request as a legacy one has them: without the envelope and the answers of rounds. */
export function legacyParams(params: JsonObject): JsonObject | undefined {
  const { _meta, inputResponses: _responses, requestState: _state, ...others } = params;
  const {
    [protocolVersionKey]: _revision,
    [clientCapabilitiesKey]: _capabilities,
    [clientInfoKey]: _info,
    [logLevelKey]: _level,
    ...meta
  } = isObject(_meta) ? _meta : {};
  const kept = Object.keys(meta).length === 0 ? others : { ...others, _meta: meta };
  return Object.keys(kept).length === 0 ? undefined : kept;
}

/**
 * The headers that mirror a modern message: name, value, name, value, …
 * @param headers of the tool that is called
 */
export function mirroredHeaders(method: string, params: JsonObject, headers: readonly ParamHeader[]): string[] {
  const mirrored = ['mcp-protocol-version', modernRevisions[0], 'mcp-method', mirroredHeader(method)];
  const source = nameSources.get(method);
  const name = source === undefined ? undefined : stringMember(params, source);
  if (name !== undefined) mirrored.push('mcp-name', mirroredHeader(name));
  for (const header of headers) {
    const text = mirroredText(argumentAt(params, header.path));
    if (text !== undefined) mirrored.push(`mcp-param-${header.name.toLowerCase()}`, mirroredHeader(text));
  }
  return mirrored;
}

export function argumentAt(params: JsonObject, path: readonly string[]): unknown {
  let value: unknown = params['arguments'];
  for (const key of path) value = isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined;
  return value;
}

/** A value as a header tells it; undefined where there is none. */
export function mirroredText(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/**
 * A header of a modern request that does not say what the body says, for a legacy upstream, which would not notice;
 * undefined where all do (2026-07-28 basic/transports/streamable-http, Server Validation).
 */
export function mismatchedHeader(
  params: JsonObject,
  expected: readonly ParamHeader[],
  headers: ReadonlyMap<string, string>,
): string | undefined {
  return expected.find(({ name, path, type }) => {
    const text = mirroredText(argumentAt(params, path));
    const header = headers.get(`mcp-param-${name.toLowerCase()}`);
    const told = header === undefined ? undefined : mirroredValue(header);
    if (text === undefined || header === undefined) return text !== undefined || header !== undefined;
    return told !== text && !(type === 'integer' && told !== undefined && Number(told) === Number(text));
  })?.name;
}

/** A modern result as a legacy client reads it. */
export function legacyResult(method: string, result: JsonObject): JsonObject {
  const { resultType: _type, _meta, ...others } = result;
  const { [serverInfoKey]: _info, ...meta } = isObject(_meta) ? _meta : {};
  const translated: Record<string, unknown> = Object.keys(meta).length === 0 ? others : { ...others, _meta: meta };
  if (cacheable.has(method)) {
    delete translated['ttlMs'];
    delete translated['cacheScope'];
  }
  // Before 2026-07-28 it was an object or nothing; the text in `content` says the same.
  if (method === 'tools/call' && 'structuredContent' in translated && !isObject(translated['structuredContent'])) {
    delete translated['structuredContent'];
  }
  if (method === 'tools/list') translated['tools'] = offeredTools(translated['tools'], legacyTool);
  return translated;
}

function legacyTool(tool: JsonObject): JsonObject {
  const schema = tool['outputSchema'];
  if (schema === undefined || (isObject(schema) && schema['type'] === 'object')) return tool;
  const { outputSchema: _schema, ...others } = tool;
  return others;
}

/** A legacy result as a modern client reads it. */
export function modernResult(method: string, result: JsonObject, serverInfo: JsonObject | null): JsonObject {
  const _meta = {
    ...objectMember(result, '_meta'),
    ...(serverInfo === null ? {} : { [serverInfoKey]: serverInfo }),
  };
  return {
    resultType: 'complete',
    ...result,
    ...(method === 'tools/list' ? { tools: offeredTools(result['tools'], modernTool) } : {}),
    ...(cacheable.has(method) ? { ttlMs: 0, cacheScope: 'private' } : {}),
    ...(Object.keys(_meta).length === 0 ? {} : { _meta }),
  };
}

/** What a tool says of legacy tasks has no meaning here. */
function modernTool(tool: JsonObject): JsonObject {
  const { execution: _execution, ...others } = tool;
  return others;
}

/** Tools whose `x-mcp-header` breaks the rules are not offered, the others stay (2026-07-28, Custom Headers). */
function offeredTools(tools: unknown, translated: (tool: JsonObject) => JsonObject): unknown {
  if (!Array.isArray(tools)) return tools;
  return tools.flatMap((tool: unknown) => {
    if (!isObject(tool)) return [tool];
    return paramHeaders(tool['inputSchema']) === undefined ? [] : [translated(tool)];
  });
}

/** What a server says of its capabilities, without legacy tasks and the extensions that do not cross eras. */
function crossingCapabilities(said: JsonObject): JsonObject {
  const { extensions, tasks: _tasks, ...others } = objectMember(said, 'capabilities') ?? {};
  return { ...others, ...crossing(objectMember({ extensions }, 'extensions')) };
}

/** The result of `initialize` that says what `server/discover` said. */
export function initializeResult(discovered: JsonObject, revision: ProtocolRevision, serverName: string): JsonObject {
  const instructions = stringMember(discovered, 'instructions');
  return {
    protocolVersion: revision,
    capabilities: crossingCapabilities(discovered),
    serverInfo: objectMember(objectMember(discovered, '_meta') ?? {}, serverInfoKey) ?? {
      name: serverName,
      version: '0',
    },
    ...(instructions === undefined ? {} : { instructions }),
  };
}

/** The result of `server/discover` that says what `initialize` said. */
export function discoverResult(initialized: JsonObject, revisions: readonly string[]): JsonObject {
  // A session is opened with those of the client's extensions that cross eras, and no other is offered to it.
  const capabilities = crossingCapabilities(initialized);
  const instructions = stringMember(initialized, 'instructions');
  return modernResult(
    'server/discover',
    { supportedVersions: revisions, capabilities, ...(instructions === undefined ? {} : { instructions }) },
    objectMember(initialized, 'serverInfo') ?? null,
  );
}

const internalError = -32603;
const invalidParams = -32602;
const legacyResourceNotFound = -32002;
/** A legacy server wants the user to visit a URL first (2025-11-25 client/elicitation). */
export const urlElicitationRequired = -32042;
export const methodNotFound = -32601;

/** A modern error as a legacy client reads it; codes it cannot know keep their meaning in `data`. */
export function legacyError(method: string, error: JsonObject): JsonObject {
  const code = error['code'];
  if (method === 'resources/read' && code === invalidParams && objectMember(error, 'data')?.['uri'] !== undefined) {
    return { ...error, code: legacyResourceNotFound };
  }
  return typeof code === 'number' && code <= -32020 && code >= -32099 ? hidden(error) : error;
}

/** A legacy error as a modern client reads it: -32002 and -32042 are gone, all other codes up to -32099 changed hands. */
export function modernError(method: string, params: JsonObject, error: JsonObject): JsonObject {
  const code = error['code'];
  if (code === legacyResourceNotFound) {
    const uri = stringMember(params, 'uri');
    const data = {
      ...(uri === undefined || method !== 'resources/read' ? {} : { uri }),
      ...objectMember(error, 'data'),
    };
    return { ...error, code: invalidParams, ...(Object.keys(data).length === 0 ? {} : { data }) };
  }
  return typeof code === 'number' && code <= -32000 && code >= -32099 ? hidden(error) : error;
}

function hidden(error: JsonObject): JsonObject {
  return { code: internalError, message: error['message'], data: { code: error['code'], data: error['data'] } };
}
