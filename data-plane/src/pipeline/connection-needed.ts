import { AppError, modernRevisions } from '@sallyport/schema';
import { canAnswer, profileOf } from '../bridge/client-profile.ts';
import { listOfKind } from '../bridge/list-changes.ts';
import { modernResult, urlElicitationRequired } from '../bridge/translate.ts';
import { objectMember, type JsonObject, type Message } from '../mcp/envelope.ts';
import { type ErrorAnswer, errorResponse } from '../mcp/error-response.ts';
import { type Edit, memberRange, removeMember } from '../mcp/json-scanner.ts';
import { clientCapabilitiesKey } from '../mcp/revision.ts';
import type { Exchange } from './exchange.ts';

/** Names our question among the answers of a client, so that it can be taken out of what goes on. */
const questionKey = 'sallyport.connect';
/** What may be answered by a question (2026-07-28 basic/utilities/mrtr, Supported Requests). */
const mayAsk: ReadonlySet<string> = new Set(['tools/call', 'prompts/get', 'resources/read']);

/**
 * The answer where the user has to connect his account first: a question to open the page for modern clients that can ask
 * it, the error of 2025-11-25 that says the same, else a failed tool or an error, with the link in words. Never a 401: the
 * client's own token is good, and renewing it would bring it here again. A modern client's first question is answered from
 * what was approved of the server: one that cannot even begin would never get to where it can be asked.
 */
export function connectionNeeded(error: AppError, exchange: Exchange): ErrorAnswer {
  const { era, message, protocolRevision } = exchange;
  const link = error.data?.['connectUrl'];
  const url = typeof link === 'string' ? link : null;
  const text =
    url === null
      ? 'Your account has to be connected to this MCP server first, and the gateway has no page for it. Ask an administrator.'
      : `Connect your account to this MCP server first, then try again: ${url}`;
  if (era === 'modern' && message?.method === 'server/discover') return discovered(message, exchange);
  if (message?.kind === 'request' && url !== null) {
    const isAsked = mayAsk.has(message.method ?? '') && canOpenUrls(message) && !isDeclined(message);
    if (era === 'modern' && isAsked) return asked(message, url);
    if (era === 'legacy' && protocolRevision === '2025-11-25') return elicited(message, url, text, exchange.eventId);
  }
  if (message?.kind === 'request' && message.method === 'tools/call') {
    const result = { content: [{ type: 'text', text }], isError: true };
    return answer(message, { result: era === 'modern' ? modernResult('tools/call', result, null) : result });
  }
  return errorResponse(new AppError('CONNECTION_NEEDED', { publicMessage: text }), era, message);
}

function discovered(message: Message, { server }: Exchange): ErrorAnswer {
  const { definitions = [], protocolRevisions = [], slug = '' } = server?.document ?? {};
  const names = definitions.flatMap(({ kind }) => listOfKind[kind] ?? []);
  const capabilities = Object.fromEntries(names.map((name) => [name, {}]));
  const supportedVersions = [...new Set([...modernRevisions, ...protocolRevisions])];
  const info = { name: slug, version: '0' };
  return answer(message, { result: modernResult('server/discover', { supportedVersions, capabilities }, info) });
}

function canOpenUrls({ params }: Message): boolean {
  const declared = objectMember(objectMember(params, '_meta') ?? {}, clientCapabilitiesKey) ?? {};
  return canAnswer(profileOf(declared, undefined).capabilities, 'elicitation/create', { mode: 'url' });
}

/** Whether the user was asked for this very call, and would not open the page: he is not asked again, but told. */
function isDeclined({ params }: Message): boolean {
  const answer = objectMember(objectMember(params, 'inputResponses') ?? {}, questionKey);
  return answer !== undefined && answer['action'] !== 'accept';
}

/** 2026-07-28 client/elicitation, URL mode. */
function asked(message: Message, url: string): ErrorAnswer {
  const params = { mode: 'url', url, message: 'Connect your account to this MCP server.' };
  const inputRequests = { [questionKey]: { method: 'elicitation/create', params } };
  return answer(message, { result: modernResult('', { resultType: 'input_required', inputRequests }, null) });
}

/** 2025-11-25 client/elicitation, URLElicitationRequiredError. */
function elicited(message: Message, url: string, text: string, elicitationId: string): ErrorAnswer {
  const elicitations = [{ mode: 'url', elicitationId, url, message: 'Connect your account to this MCP server.' }];
  return answer(message, { error: { code: urlElicitationRequired, message: text, data: { elicitations } } });
}

function answer({ idText }: Message, outcome: JsonObject): ErrorAnswer {
  const body = JSON.stringify(outcome).slice(1);
  return {
    status: 200,
    headers: ['content-type', 'application/json', 'cache-control', 'no-store'],
    body: Buffer.from(`{"jsonrpc":"2.0","id":${idText ?? 'null'},${body}`),
  };
}

/** Takes the answer to our question out of a request: the upstream did not ask it. */
export function withoutOurAnswer(body: Buffer, { params, paramsRange }: Message): Edit[] {
  const responses = objectMember(params, 'inputResponses');
  if (paramsRange === null || responses === undefined || !Object.hasOwn(responses, questionKey)) return [];
  if (Object.keys(responses).length === 1) return removeMember(body, paramsRange, 'inputResponses');
  const range = memberRange(body, paramsRange, 'inputResponses');
  return range === undefined ? [] : removeMember(body, range, questionKey);
}
