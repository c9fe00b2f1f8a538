import {
  acceptedContent,
  CLIENT_CAPABILITIES_META_KEY,
  type CallToolResult,
  type InputRequests,
  type InputRequiredResult,
  inputRequired,
  inputResponse,
  type McpServer,
  type RequestStateCodec,
  type ServerContext,
} from '@modelcontextprotocol/server';
import { z } from 'zod';

type ToolAnswer = CallToolResult | InputRequiredResult;

/** What travels through the client between two rounds; signed by the codec. */
export interface ReferenceState {
  readonly flow: string;
  readonly step: number;
}

const question = (message: string, property: string) =>
  inputRequired.elicit({
    message,
    requestedSchema: { type: 'object', properties: { [property]: { type: 'string' } }, required: [property] },
  });

const sampling = (prompt: string, maxTokens: number) =>
  inputRequired.createMessage({
    messages: [{ role: 'user', content: { type: 'text', text: prompt } }],
    maxTokens,
  });

const text = (value: string): CallToolResult => ({ content: [{ type: 'text', text: value }] });
const ask = (inputRequests: InputRequests): InputRequiredResult => inputRequired({ inputRequests });
const envelopeSchema = z.looseObject({
  [CLIENT_CAPABILITIES_META_KEY]: z.looseObject({ sampling: z.unknown(), elicitation: z.unknown() }).partial(),
});

/** The capabilities a modern request declares; none for a legacy one. */
function declaredCapabilities(ctx: ServerContext): { readonly sampling?: unknown; readonly elicitation?: unknown } {
  const envelope = envelopeSchema.safeParse(ctx.mcpReq.envelope);
  return envelope.success ? envelope.data[CLIENT_CAPABILITIES_META_KEY] : {};
}

const nameSchema = z.object({ name: z.string() });

function sampledText(ctx: ServerContext, key: string): string | undefined {
  const response = inputResponse(ctx.mcpReq.inputResponses, key);
  return response.kind === 'sampling' ? JSON.stringify(response.result.content) : undefined;
}

/** The interactive tools of the 2025 scenarios; a legacy client gets the questions as requests. */
function registerLegacyScenarios(server: McpServer): void {
  server.registerTool(
    'test_sampling',
    { description: 'Asks the client to sample', inputSchema: z.object({ prompt: z.string() }) },
    ({ prompt }, ctx): ToolAnswer => {
      const answer = sampledText(ctx, 'sample');
      return answer === undefined ? ask({ sample: sampling(prompt, 100) }) : text(`LLM response: ${answer}`);
    },
  );
  const elicitation = (name: string, requests: (message: string) => InputRequests): void => {
    server.registerTool(
      name,
      { description: 'Asks the user', inputSchema: z.object({ message: z.string().optional() }) },
      ({ message }, ctx): ToolAnswer => {
        const response = inputResponse(ctx.mcpReq.inputResponses, 'answer');
        if (response.kind !== 'elicit') return ask(requests(message ?? 'Please answer'));
        const content = JSON.stringify(response.content ?? {});
        return text(`Elicitation completed: action=${response.action}, content=${content}`);
      },
    );
  };
  elicitation('test_elicitation', (message) => ({
    answer: inputRequired.elicit({
      message,
      requestedSchema: {
        type: 'object',
        properties: {
          username: { type: 'string', description: "User's response" },
          email: { type: 'string', description: "User's email address" },
        },
        required: ['username', 'email'],
      },
    }),
  }));
  elicitation('test_elicitation_sep1034_defaults', (message) => ({ answer: defaultsQuestion(message) }));
  elicitation('test_elicitation_sep1330_enums', (message) => ({ answer: choicesQuestion(message) }));
}

const defaultsQuestion = (message: string) =>
  inputRequired.elicit({
    message,
    requestedSchema: {
      type: 'object',
      properties: {
        name: { type: 'string', default: 'John Doe' },
        age: { type: 'integer', default: 30 },
        score: { type: 'number', default: 95.5 },
        status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
        verified: { type: 'boolean', default: true },
      },
    },
  });

const titled = (prefix: string) => [
  { const: 'value1', title: `First ${prefix}` },
  { const: 'value2', title: `Second ${prefix}` },
  { const: 'value3', title: `Third ${prefix}` },
];

const choicesQuestion = (message: string) =>
  inputRequired.elicit({
    message,
    requestedSchema: {
      type: 'object',
      properties: {
        untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
        titledSingle: { type: 'string', oneOf: titled('Option') },
        legacyEnum: {
          type: 'string',
          enum: ['opt1', 'opt2', 'opt3'],
          enumNames: ['Option One', 'Option Two', 'Option Three'],
        },
        untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
        titledMulti: { type: 'array', items: { anyOf: titled('Choice') } },
      },
    },
  });

/** The input-required scenarios of 2026-07-28 that need no state. */
function registerStatelessRounds(server: McpServer): void {
  const tool = (name: string, answer: (ctx: ServerContext) => ToolAnswer): void => {
    server.registerTool(name, { description: 'Needs an answer from the client' }, answer);
  };
  tool('test_input_required_result_elicitation', (ctx) => {
    const accepted = acceptedContent(ctx.mcpReq.inputResponses, 'user_name', nameSchema);
    if (accepted === undefined) return ask({ user_name: question('What is your name?', 'name') });
    return text(`Hello, ${accepted.name}!`);
  });
  tool('test_input_required_result_sampling', (ctx) => {
    const answer = sampledText(ctx, 'capital_question');
    if (answer === undefined) return ask({ capital_question: sampling('What is the capital of France?', 100) });
    return text(answer);
  });
  tool('test_input_required_result_list_roots', (ctx) => {
    const response = inputResponse(ctx.mcpReq.inputResponses, 'client_roots');
    if (response.kind !== 'roots') return ask({ client_roots: inputRequired.listRoots() });
    return text(`Roots: ${response.roots.map(({ uri }) => uri).join(', ')}`);
  });
  tool('test_input_required_result_capabilities', (ctx) => {
    const declared = declaredCapabilities(ctx);
    const requests: InputRequests = {};
    if (declared.sampling !== undefined) requests['sample'] = sampling('Say something', 50);
    if (declared.elicitation !== undefined) requests['answer'] = question('Say something', 'answer');
    return Object.keys(requests).length === 0 ? text('The client can answer nothing') : ask(requests);
  });
  // The SDK refuses to ask for what the client did not declare.
  tool('test_missing_capability', (ctx) => {
    const answer = sampledText(ctx, 'sample');
    return answer === undefined ? ask({ sample: sampling('Say something', 50) }) : text(answer);
  });
  tool('test_streaming_elicitation', (ctx) => {
    const accepted = acceptedContent(ctx.mcpReq.inputResponses, 'user_name', nameSchema);
    if (accepted === undefined) return ask({ user_name: question('What is your name?', 'name') });
    return text(`Hello, ${accepted.name}!`);
  });
  server.registerPrompt(
    'test_input_required_result_prompt',
    { description: 'A prompt that needs an answer from the client' },
    (ctx) => {
      const schema = z.object({ context: z.string() });
      const accepted = acceptedContent(ctx.mcpReq.inputResponses, 'user_context', schema);
      if (accepted === undefined) {
        return ask({ user_context: question('What context should the prompt use?', 'context') });
      }
      return { messages: [{ role: 'user', content: { type: 'text', text: `Use this context: ${accepted.context}` } }] };
    },
  );
}

/** The scenarios whose state travels through the client. */
function registerStatefulRounds(server: McpServer, codec: RequestStateCodec<ReferenceState>): void {
  const tool = (name: string, answer: (ctx: ServerContext, step: number) => Promise<ToolAnswer> | ToolAnswer): void => {
    server.registerTool(name, { description: 'Keeps its state with the client' }, (ctx) => {
      const state = ctx.mcpReq.requestState<ReferenceState>();
      return answer(ctx, state?.flow === name ? state.step : 0);
    });
  };
  const askWithState = async (flow: string, step: number, inputRequests: InputRequests): Promise<ToolAnswer> =>
    inputRequired({ inputRequests, requestState: await codec.mint({ flow, step }) });
  const confirmation = {
    confirm: inputRequired.elicit({
      message: 'Please confirm',
      requestedSchema: { type: 'object', properties: { ok: { type: 'boolean' } }, required: ['ok'] },
    }),
  };
  for (const name of ['test_input_required_result_request_state', 'test_input_required_result_tampered_state']) {
    tool(name, (ctx, step) => {
      const accepted = acceptedContent(ctx.mcpReq.inputResponses, 'confirm');
      return step === 1 && accepted !== undefined ? text('state-ok') : askWithState(name, 1, confirmation);
    });
  }
  tool('test_input_required_result_multiple_inputs', (ctx, step) => {
    const keys = ['user_name', 'greeting', 'client_roots'];
    const answered = keys.every((key) => inputResponse(ctx.mcpReq.inputResponses, key).kind !== 'missing');
    if (step === 1 && answered) return text('All three answers arrived');
    return askWithState('test_input_required_result_multiple_inputs', 1, {
      user_name: question('What is your name?', 'name'),
      greeting: sampling('Generate a greeting', 50),
      client_roots: inputRequired.listRoots(),
    });
  });
  tool('test_input_required_result_multi_round', (ctx, step) => {
    const flow = 'test_input_required_result_multi_round';
    const responses = ctx.mcpReq.inputResponses;
    if (step === 2 && acceptedContent(responses, 'step2') !== undefined) return text('Both steps are done');
    if (step === 1 && acceptedContent(responses, 'step1') !== undefined) {
      return askWithState(flow, 2, { step2: question('Step 2: What is your favorite color?', 'color') });
    }
    return askWithState(flow, 1, { step1: question('Step 1: What is your name?', 'name') });
  });
}

/** Everything the official suite asks of a server that asks back. */
export function registerInteraction(server: McpServer, codec: RequestStateCodec<ReferenceState>): void {
  registerLegacyScenarios(server);
  registerStatelessRounds(server);
  registerStatefulRounds(server, codec);
}
