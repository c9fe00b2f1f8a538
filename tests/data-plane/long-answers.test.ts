/** Of long answers of tools the node makes no more than their form: they are held to what short ones are held to. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { modern, send } from './requests.ts';

const call = modern('tools/call', { name: 'count', arguments: {} });
const asks = '"inputRequests":{"a":{"method":"of/nobody","params":{}}}';
const evil = '{"mode":"url","elicitationId":"e","message":"m","url":"https://evil.example/"}';
const said = (members: string): Buffer => Buffer.from(`{"jsonrpc":"2.0",${members}}`);
const content = (text: string): string => `"content":[{"type":"text","text":"${text}"}]`;

/** What a server says with a text in it, and whether it goes on as it is. */
const answers: readonly (readonly [string, boolean, (text: string) => Buffer])[] = [
  ['a result', true, (text) => said(`"id":1,"result":{"resultType":"complete",${content(text)}}`)],
  ['a number that is none', true, (text) => said(`"id":1,"result":{"n":1e999,${content(text)}}`)],
  [
    'bytes that are no UTF-8',
    true,
    (text) => Buffer.from(said(`"id":1,"result":{${content(`${text}\u00ff`)}}`).toString(), 'latin1'),
  ],
  ['a question', false, (text) => said(`"id":1,"result":{${asks},${content(text)}}`)],
  [
    'a question by a name that is escaped',
    false,
    (text) => said(`"id":1,"result":{${asks.replace('Requests', '\\u0052equests')},${content(text)}}`),
  ],
  ['questions that are a text', false, (text) => said(`"id":1,"result":{"inputRequests":"${text}",${content(text)}}`)],
  ['a result twice', false, (text) => said(`"id":1,"result":{${content(text)}},"result":{${asks},${content(text)}}`)],
  ['a result that is a text', false, (text) => said(`"id":1,"result":"${text}"`)],
  ['a result and a call', false, (text) => said(`"id":1,"method":"${text}","result":{${content(text)}}`)],
  [
    'a result and a call that is escaped',
    false,
    (text) => said(`"id":1,"m\\u0065thod":"a","result":{${content(text)}}`),
  ],
  ['a result and an error', false, (text) => said(`"id":1,"error":{"message":"${text}"},"result":{${content(text)}}`)],
  ['an answer to another', false, (text) => said(`"id":2,"result":{${content(text)}}`)],
  ['an answer to a text', false, (text) => said(`"id":"${text}","result":{${content(text)}}`)],
  ['a task', false, (text) => said(`"id":1,"result":{"resultType":"task","taskId":"t",${content(text)}}`)],
  [
    'an error that sends people somewhere',
    false,
    (text) => said(`"id":1,"error":{"code":-32042,"message":"${text}","data":{"elicitations":[${evil}]}}`),
  ],
  ['what breaks off', false, (text) => said(`"id":1,"result":{${content(text)}`).subarray(0, -1)],
  ['what goes on', false, (text) => Buffer.concat([said(`"id":1,"result":{${content(text)}}`), Buffer.from('x')])],
  [
    'a mark of byte order',
    false,
    (text) => Buffer.concat([Buffer.from('\ufeff'), said(`"id":1,"result":{${content(text)}}`)]),
  ],
  ['a control character', false, (text) => said(`"id":1,"result":{${content(`${text}\u0001`)}}`)],
  ['an escape that is none', false, (text) => said(`"id":1,"result":{${content(`${text}\\q`)}}`)],
];

let upstream: FakeUpstream;
let node: PipelineNode;
beforeAll(async () => {
  upstream = await startFakeUpstream();
  node = await startPipelineNode({
    servers: [{ slug: 'open', url: upstream.url, tools: fakeTools }],
    grants: [{ server: 'open', tools: ['*'] }],
  });
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});

describe.each(['application/json', 'text/event-stream'])('in an answer of type %s', (type) => {
  async function outcomeOf(answer: Buffer) {
    const body =
      type === 'application/json' ? answer : Buffer.concat([Buffer.from('data: '), answer, Buffer.from('\n\n')]);
    upstream.intercept((_request, response) => {
      response.writeHead(200, { 'content-type': type }).end(body);
      return true;
    });
    const { status, text } = await send(node.url('open'), call);
    const isAsItWas = text.includes(answer.toString());
    return { status, isAsItWas, code: isAsItWas ? undefined : /"code":(-?\d+)/.exec(text)?.[1] };
  }

  test.each(answers)('%s is told alike whether it is long or short', async (_name, isAsItWas, answer) => {
    const short = await outcomeOf(answer('a'));
    expect(short.isAsItWas).toBe(isAsItWas);
    expect(await outcomeOf(answer('long '.repeat(2_000)))).toEqual(short);
  });
});
