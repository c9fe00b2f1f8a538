/**
 * Words and phrases by what they do in an instruction to a model. Rules look for combinations of these meanings close
 * together, not for sentences that somebody once wrote, so that another wording of the same demand is found as well.
 */

export const meaning = {
  dismiss: 1 << 0,
  follow: 1 << 1,
  prior: 1 << 2,
  all: 1 << 3,
  instruction: 1 << 4,
  system: 1 << 5,
  agent: 1 << 6,
  your: 1 << 7,
  covert: 1 << 8,
  negation: 1 << 9,
  tell: 1 << 10,
  user: 1 << 11,
  send: 1 << 12,
  include: 1 << 13,
  sensitive: 1 << 14,
  read: 1 << 15,
  destination: 1 << 16,
  must: 1 << 17,
  call: 1 << 18,
  tool: 1 << 19,
  privateContext: 1 << 20,
  harm: 1 << 21,
  encode: 1 << 22,
  answer: 1 << 23,
  before: 1 << 24,
  without: 1 << 25,
  consent: 1 << 26,
  permission: 1 << 27,
  overrule: 1 << 28,
  rule: 1 << 29,
  credentialFile: 1 << 30,
} as const;

const words: Readonly<Record<keyof typeof meaning, string>> = {
  dismiss: `ignore ignores ignoring disregard disregards disregarding forget forgetting unlearn ignoriere ignorieren
    ignora ignorar ignorez ignorer oubliez oublie olvida olvide vergiss esqueça esqueca dimentica`,
  overrule: `override overrides overriding bypass bypassing supersede supersedes superseding discard overrule overrules
    neglect abandon`,
  follow: `follow following obey obeying adhere comply complying abide honor heed listen respect`,
  prior: `previous previously prior above earlier preceding foregoing original originally initial existing former past old
    current default vorherigen bisherigen anteriores previas anterior précédentes precedentes precedenti`,
  all: `all any every everything anything entire whole alle alles todas todos toutes tutte tutto`,
  instruction: `instruction instructions prompt prompts guideline guidelines directive directives programming
    safeguard safeguards guardrail guardrails orders directions anweisungen instrucciones instruções instrucoes
    istruzioni consignes`,
  rule: `rule rules policy policies constraint constraints restriction restrictions protocols protocol regeln reglas`,
  system: `system developer admin administrator root safety security operator`,
  agent: `assistant assistants ai a.i llm llms chatbot chatbots claude gpt chatgpt gpt-4 gpt-4o gpt4 copilot gemini llama
    agent agents bot asistente assistent`,
  your: `you your yours yourself`,
  covert: `secretly silently covertly discreetly stealthily surreptitiously quietly unnoticed invisibly clandestinely
    confidentially`,
  negation: `not never dont don't no avoid refrain nor cannot can't shouldn't mustn't won't neither nunca niemals nicht jamais`,
  tell: `tell telling mention mentioning inform informing reveal revealing disclose disclosing notify notifying show alert
    alerting warn warning explain explaining acknowledge discuss say display expose describe report announce
    reference bring communicate divulge`,
  user: `user users user's human humans customer customers operator owner anyone anybody person people them`,
  send: `send sends sending post posting upload uploading forward forwarding email emailing e-mail mail transmit transmitting
    exfiltrate exfiltrating leak submit deliver share bcc cc relay push curl`,
  include: `include including append appending embed embedding insert attach attaching pass passing put place paste prepend
    copy provide supply add store hand carry give fill prefix prepending report using`,
  sensitive: `password passwords passwd passphrase credential credentials secret secrets apikey api_key apikeys api-key
    id_rsa id_ed25519 private_key ssh cookies wallet mnemonic keychain token tokens access_token auth_token bearer kubeconfig
    ssn .env environ dotenv keyfile`,
  read: `read reading open cat load access retrieve fetch obtain collect extract gather grab dump scan locate find lookup`,
  destination: `webhook endpoint url server attacker address destination`,
  must: `must always mandatory required requires requirement important critical urgent immediately crucial essential needs
    shall need necessary compulsory should remember ensure please kindly`,
  call: `call calls calling invoke invokes invoking invoked run running execute executes executing use uses using trigger launch`,
  tool: `tool tools function functions plugin operation operations action actions request requests command task`,
  privateContext: ``,
  credentialFile: ``,
  harm: `transfer wire delete erase wipe drop purchase buy grant unlock disable install download reset pay deposit withdraw
    remove format destroy rm shutdown escalate impersonate`,
  encode: `encode encrypt translate reverse render rewrite obfuscate encoded base64 respond reply answer begin start end finish
    conclude output write print prefix`,
  answer: `answer answers response responses reply replies output summary`,
  before: `before prior first prerequisite initially beforehand whenever every each after`,
  without: `without`,
  consent: `asking ask confirmation confirming confirm permission consent approval approving authorization authorisation
    prompting telling informing notifying mentioning alerting disclosing explaining knowledge awareness noticing`,
  permission: `permissions privileges privilege sudo`,
};

function compileWords(): ReadonlyMap<string, number> {
  const result = new Map<string, number>();
  for (const [name, list] of Object.entries(words)) {
    const bit = meaning[name as keyof typeof meaning];
    for (const word of list.split(/\s+/).filter(Boolean)) result.set(word, (result.get(word) ?? 0) | bit);
  }
  return result;
}

/** By word in lower case: the meanings it may have, as bits. */
export const wordMeanings = compileWords();

/** By length, first and last character, whether a word of the lexicon is so: of most words nothing more is looked at. */
const meantForms = new Uint8Array(1 << 13);
for (const word of wordMeanings.keys()) meantForms[formOf(word, 0, word.length)] = 1;

function formOf(text: string, start: number, end: number): number {
  const form = (end - start) ^ (text.charCodeAt(start) << 3) ^ (text.charCodeAt(end - 1) << 8);
  return form & (meantForms.length - 1);
}

/** What the word at a place may mean; undefined where nothing. */
export function meaningsAt(text: string, start: number, end: number): number | undefined {
  return meantForms[formOf(text, start, end)] === 1 ? wordMeanings.get(text.slice(start, end)) : undefined;
}

/** What is looked for by an expression, and what nothing that it finds is without. */
export interface Shape {
  readonly pattern: RegExp;
  /** Of each of these lists, one stands in whatever the pattern finds. */
  readonly signs: readonly (readonly string[])[];
}

/** What a phrase or mark says by itself: how sure it makes one that a model is being instructed, 0 to 1. */
export interface Phrase extends Shape {
  readonly name: string;
  /** In what a server returns, and in what it says of its tools. */
  readonly inContent: number;
  readonly inDefinition: number;
}

const pointedAt = ['above ', 'previous ', 'rest '];
const models = [
  'llm',
  'language',
  'assistant',
  'chatbot',
  'agent',
  'claude',
  'gpt',
  'copilot',
  'gemini',
  'automated',
].concat([
  'ai ',
  ...['ai', 'bot'].flatMap((word) => [' ', 'to', 'for', 'all', 'any', 'the'].map((before) => before + word)),
]);
const replyOnly = ['only', 'exactly', 'solely', 'just', 'exclusively'].flatMap((only) =>
  ['with', 'in', 'using'].map((how) => `${only} ${how}`),
);
const dismissalsElsewhere = [
  ...['忽略', '无视', '無視', '忽視', '不要理会', '忘记', '前', '上記', 'これまで', '이전', '위', '모든'],
  ...['игнорируй', 'забудь', 'ignora', 'ignorez', 'ignoriere', 'ignorera', 'olvida', 'oublie', 'vergiss'],
  ...['dimentica', 'esqueça', 'esqueca', 'desconsidere', 'ignore ', 'تجاهل', 'انس', 'पिछले', 'önceki'],
  ...['zignoruj', 'negeer'],
];

/** Each begins with a literal, so that looking for it is cheap; each is bounded, so that no text makes it slow. */
export const phrases: readonly Phrase[] = [
  {
    name: 'templateMark',
    signs: [['<|', 'inst]', 'sys>>', '<start_of_turn>', 'function_results>', 'tool_result>', 'antml:']],
    pattern:
      /<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id|begin_of_text)\|>|\[\/?inst\]|<<\/?sys>>|<start_of_turn>|<\/?(?:function_results|tool_result|antml:[a-z_]{1,20})>/g,
    inContent: 0.8,
    inDefinition: 0.85,
  },
  {
    name: 'pseudoTag',
    signs: [['<'], ['>']],
    pattern:
      /<\/?(?:system|sys|important|critical|secret|hidden|admin|administrator|developer|override|instruction|instructions|directive|information|urgent|system[_-][a-z]{2,20}|ai[_-][a-z]{2,20}|assistant[_-][a-z]{2,20})>/g,
    inContent: 0.55,
    inDefinition: 0.6,
  },
  {
    name: 'speaker',
    signs: [[':'], ['system', 'assistant', 'developer', 'ai:', 'ai ', 'ai*', 'ai_']],
    pattern:
      /(?:^|\n)[ \t>*#_-]{0,6}(?:system|assistant|developer|ai)(?: (?:prompt|message|note|notice|instruction|update|override|alert))?[ *_]{0,3}:(?! ?(?:none|null|linux|windows|macos|\d))/g,
    inContent: 0.4,
    inDefinition: 0.35,
  },
  {
    name: 'bracketedSpeaker',
    signs: [['['], [']']],
    pattern:
      /\[(?:begin |end |new )?(?:system|admin|developer|assistant|ai|hidden|secret|internal)[ _-]?(?:prompt|message|note|notice|instructions?|update|override|directive|command|alert)?\]/g,
    inContent: 0.55,
    inDefinition: 0.55,
  },
  {
    name: 'systemNotice',
    signs: [['system ', 'system_', 'system-', 'instruction', 'directive', 'protocol']],
    pattern:
      /\bsystem[ _-](?:override|notice|directive|instruction|instructions|update required|maintenance mode|command)\b|\b(?:important|critical|mandatory|hidden|special|internal) (?:system )?(?:instruction|instructions|directive|directives|protocol)\b/g,
    inContent: 0.4,
    inDefinition: 0.35,
  },
  {
    name: 'newInstructions',
    signs: [['instruction', 'directive', 'orders', 'objective']],
    pattern:
      /\b(?:new|updated|revised|real|actual|true|additional|following|these) (?:system )?(?:instructions?|directives?|orders|objectives?)\b(?! manual| set architecture)/g,
    inContent: 0.4,
    inDefinition: 0.25,
  },
  {
    name: 'newTask',
    signs: [
      ['task', 'goal', 'objective', 'mission', 'job', 'instruction', 'rules', 'orders', ...pointedAt],
      [' new ', ' real ', ' actual ', ' true ', ' only ', ...pointedAt],
    ],
    pattern:
      /\b(?:your|the) (?:new|real|actual|true|only) (?:task|goal|objective|mission|job|instructions?|rules) (?:is|are|now|:)|\b(?:you have|here are|these are) (?:your )?new (?:rules|instructions|orders|goals?|tasks?)\b|\b(?:the )?(?:above|previous|rest) (?:text |content |message |was |were |is |are )+(?:only |just )?(?:an? )?(?:test|example|fake|draft|decoy|irrelevant|obsolete|outdated|void)\b/g,
    inContent: 0.6,
    inDefinition: 0.45,
  },
  {
    name: 'newRole',
    signs: [['you are ', 'from now on', 'act as ', 'pretend ', ' mode', 'do anything now', 'jailbr']],
    pattern:
      /\byou are (?:now|no longer|a(?:n)? (?:unrestricted|uncensored|evil|jailbroken))\b|\bfrom now on\b|\bact as (?:if you|an? (?:unrestricted|different|evil|admin))|\bpretend (?:to be|that you|you are)\b|\b(?:developer|debug|god|dan|jailbreak|unrestricted|maintenance|admin) mode\b|\bdo anything now\b|\bjailbr(?:eak|oken)\b/g,
    inContent: 0.5,
    inDefinition: 0.45,
  },
  {
    name: 'addressedModel',
    signs: [models],
    pattern:
      /\b(?:note|notice|message|instructions?|attention|reminder|hint|hello|dear|hey|hi|to|for) (?:to|for|all|any|the)? ?(?:ai|llm|llms|language|assistant|assistants|chatbot|agents?|claude|chatgpt|gpt|copilot|gemini|bot)(?: (?:assistants?|agents?|models?|systems?))?(?: (?:reading|processing|summari[sz]ing|parsing|analy[sz]ing|viewing|handling) (?:this|these|the))?\s?[,:!—-]|\bif you(?:'re| are) an? (?:ai|llm|language model|assistant|chatbot|agent|automated|bot)\b|\b(?:ai|llm|language) (?:assistants?|agents?|models?|systems?) (?:reading|processing|summari[sz]ing|parsing|analy[sz]ing|that (?:reads?|process(?:es)?)|must|should|are (?:required|instructed|to)|need to|have to|shall)\b|\bas an? (?:ai|assistant|language model|llm)(?: (?:assistant|agent|model))?, (?:you|your)\b/g,
    inContent: 0.65,
    inDefinition: 0.45,
  },
  {
    name: 'taskHijack',
    signs: [['before ', 'do the following ', 'instead', 'strictly ', 'stop ', 'end of ', 'start of ', 'beginning of ']],
    pattern:
      /\bbefore (?:you )?(?:can |may |continue |continuing |proceed|answer|respond|reply|solv|complet|finish|summari)[a-z ]{0,30}(?:task|question|request|answer|user|query|email|document|above|,)|\bdo the following (?:first|instead|immediately|now)\b|\binstead of (?:summari|answer|translat|complet|respond|help)[a-z ]{2,40},? (?:you|please|just|simply|output|print|call|send|say)|\binstead,? (?:you (?:must|should|need|will)|please|do|call|send|use|output|respond|reply|print|write|say|tell)\b|\bstrictly (?:adhere|follow|comply)\b|\bstop (?:what you|everything|your|summari|the (?:task|current))|\b(?:end|start|beginning) of (?:the )?(?:document|data|context|tool (?:output|result)|search results?|user (?:input|data|message)|untrusted|email)\b(?=[^a-z]{0,12}(?:\n|$|new|now|system|instruc|=|-))/g,
    inContent: 0.4,
    inDefinition: 0.2,
  },
  {
    name: 'concealment',
    signs: [
      ['not ', "n't ", 'never ', 'avoid ', 'without ', 'no need to ', 'hidden from', 'invisible from'].concat([
        'kept secret from',
        'concealed from',
        'keep ',
        'hide ',
        'conceal ',
      ]),
    ],
    pattern:
      /\b(?:do not|don't|never|avoid|without|must not|should not|no need to) (?:ever )?(?:tell|mention|inform|reveal|disclos|notify|alert|explain|acknowledg|discuss|describ|refer)[a-z]* (?:to )?(?:this|it|that|these|the (?:tool|call|step|process|file|instruction|content|action|reason|fact|existence)|any of this|about|anything)|\b(?:hidden|invisible|kept secret|concealed) from (?:the )?(?:user|human)|\b(?:user|human)s? (?:must|should|does|do|need|needs|will|may|can|shall)(?: not|n't|not) (?:see|know|be (?:told|informed|aware|notified|shown)|notice|find out|learn)\b|\bkeep (?:this|it|these)(?: [a-z]+){0,3} (?:secret|hidden|confidential|between us|private|quiet)\b|\b(?:hide|conceal) (?:this|it|that|these|the fact|your|any)\b|\bhide that you\b/g,
    inContent: 0.5,
    inDefinition: 0.7,
  },
  {
    name: 'hiddenComment',
    signs: [['<!--']],
    pattern: /<!--[^>]{0,400}?\b(?:ai|assistants?|llms?|models?|agents?|ignore|disregard|instructions?|the user)\b/g,
    inContent: 0.55,
    inDefinition: 0.65,
  },
  {
    name: 'replyInsertion',
    signs: [[' your '], ['answer', 'response', 'reply', 'output', 'summary']],
    pattern:
      /\b(?:include|add|mention|insert|embed|append)\b[^.\n]{0,60}\b(?:in|to|at the (?:end|beginning|start|top|bottom) of) your (?:answer|response|reply|output|summary)\b|\b(?:in|using|of|to) your (?:answer|response|reply|output|summary)\b[^.\n]{0,40}\b(?:base\d\d|cipher|caesar|rot13|emoji|morse|backwards?|reverse|link|url|advert|promot)/g,
    inContent: 0.4,
    inDefinition: 0.2,
  },
  {
    name: 'everyTool',
    signs: [
      [
        'before ',
        ' any ',
        ' every ',
        ' each ',
        'cedence over ',
        'priority over ',
        'supersede',
        'override',
        'instead of ',
      ],
    ],
    pattern:
      /\bbefore (?:you )?(?:us(?:e|ing)|call(?:ing)?|invok(?:e|ing)|run(?:ning)?|execut(?:e|ing)|perform(?:ing)?|respond(?:ing)?|answer(?:ing)?|proceed(?:ing)?|do(?:ing)?) (?:to )?(?:any|every|each|all|anything)(?: of)?(?: the)?(?: other)?(?: tools?| functions?| operations?| actions?| requests?| tasks?| quer(?:y|ies)| questions?)?\b|\b(?:for|on|at|with|after|during) (?:any|every|each) (?:and every )?(?:user )?(?:request|message|conversation|query|task|tool call|session|response|interaction|turn)s?\b|\b(?:takes? (?:precedence|priority) over|supersedes?|overrides?) (?:all|any|every|other|previous)\b|\binstead of (?:the |any )?(?:other|original|official|built-in|default) (?:[a-z_]+ )?tools?\b/g,
    inContent: 0.25,
    inDefinition: 0.42,
  },
  {
    name: 'smuggledParameter',
    signs: [[' param', ' arg', ' field', ' property']],
    pattern:
      /\b(?:pass|put|place|include|send|provide|supply|insert|append|copy|write|store|add|use)[^.\n]{0,80}\b(?:content|contents|value|values|output|result|results|text|data)\b[^.\n]{0,40}\b(?:as|in|into|to|via|through|with)\b[^.\n]{0,20}[`'"]?[a-z_]{2,30}[`'"]? (?:parameter|argument|field|param|arg|property)\b/g,
    inContent: 0.25,
    inDefinition: 0.2,
  },
  {
    name: 'claimedConsent',
    signs: [
      ['approved', 'authori', 'consent', 'agreed', 'confirm', 'granted', 'approval', 'permission'].concat([
        ' ask ',
        ' prompt ',
        ' wait ',
      ]),
    ],
    pattern:
      /\b(?:the )?user (?:has |have )?(?:already )?(?:approved|authori[sz]ed|consented|agreed|confirmed|pre-?approved|granted)\b|\b(?:no|without) (?:further |additional |user |any |prior |explicit )?(?:confirmation|approval|consent|permission)(?: (?:is )?(?:needed|required|necessary))?\b|\b(?:do not|don't|never|no need to) (?:ask|prompt|wait) (?:for |the user |him |them )?(?:for )?(?:any )?(?:confirmation|permission|approval|consent|user)\b/g,
    inContent: 0.4,
    inDefinition: 0.5,
  },
  {
    name: 'replyControl',
    signs: [['answer', 'response', 'reply', 'replies', 'output', 'message', ...replyOnly]],
    pattern:
      /\b(?:encode|encrypt|reverse|translate|render|rewrite|obfuscate|prefix|begin|start|end|finish|conclude|sign off|format|convert|provide|give|shift|express|compose|present|deliver) (?:your|the|every|each|all of your) (?:entire |whole |final |full |next )?(?:answers?|responses?|repl(?:y|ies)|output|message)\b|\b(?:respond|reply|answer|output|say|print)(?: to (?:the user|this|everything))? (?:only|exactly|solely|just|exclusively) (?:with|in|using)\b|\b(?:use|using|with|in) (?:an? )?(?:base\d\d|rot13|caesar|morse|pig latin|substitution|monoalphabetic|atbash|vigen[eè]re)[a-z0-9 ]{0,40}\b(?:for|in|to|on) (?:your|the|all) (?:answers?|responses?|repl(?:y|ies)|output)/g,
    inContent: 0.62,
    inDefinition: 0.25,
  },
  {
    name: 'otherLanguages',
    signs: [dismissalsElsewhere],
    pattern:
      /(?:忽略|无视|無視|忽視|不要理会|忘记)(?:.{0,10})(?:指令|指示|提示|规则|規則)|(?:以前|前|上記|これまで)の?(?:すべての)?(?:指示|命令|プロンプト)を?[^\n]{0,4}(?:無視|忘れ)|(?:이전|위의?|모든)\s?(?:의\s?)?(?:모든\s?)?(?:지시|명령|프롬프트)[^\n]{0,6}(?:무시|잊)|(?:игнорируй|игнорируйте|забудь|забудьте|проигнорируй|проигнорируйте)[^.\n]{0,40}(?:инструкц|указан|команд|правил)|(?:ignora|ignorez|ignoriere|olvida|oublie|oubliez|vergiss|dimentica|esqueça|esqueca|desconsidere|ignore (?:todas?|todos|as|les|toutes?|tous)) [^.\n]{0,30}(?:instruc|istruzion|instruç|anweisung|consigne|regeln|reglas|directive|befehle)|(?:تجاهل|انس)[^.\n]{0,30}(?:التعليمات|الأوامر|تعليمات)|पिछले[^.\n]{0,20}निर्देश|önceki[^.\n]{0,20}talimat[^.\n]{0,20}(?:yok say|unut|görmezden)|(?:zignoruj|negeer|ignorera)[^.\n]{0,30}(?:instrukcj|instructies|instruktion)/g,
    inContent: 0.85,
    inDefinition: 0.85,
  },
];

/** What was said between a person and a model, or to the model by its operator. */
export const privateContext: Shape = {
  signs: [['conversation', 'chat', 'message', 'session ', 'prompt', 'dialogue', "user's ", "users' ", 'user ']],
  pattern:
    /\b(?:conversation|chat|message|session) (?:history|context|logs?|transcripts?)\b|\b(?:full|entire|complete|whole|all|current|previous) (?:of the )?(?:previous |prior |user |our |the )?(?:conversations?|chats?|prompts?|messages|dialogue)\b|\b(?:system|initial|developer) (?:prompt|message)\b|\b(?:user's|users'|user) (?:original )?(?:messages?|prompts?|query|queries|requests?|inputs?)\b/g,
};

/** Places on a disk where credentials lie. */
export const credentialPath: Shape = {
  signs: [
    [
      '~/',
      '~\\',
      '$home',
      '%userprofile%',
      '/root',
      '/home/',
      '/users/',
      'c:\\users\\',
      '/etc/',
      '.json',
      'id_',
    ].concat(
      ['.ssh', '.aws', '.gnupg', '.kube', '.docker', '.env', '.netrc', '.npmrc', '.pgpass', '.git-credentials'],
      ['.bash_history', '.zsh_history'],
    ),
  ],
  pattern:
    /(?:~|\$home|%userprofile%|\/root|\/home\/[\w.-]{1,32}|\/users\/[\w.-]{1,32}|c:\\users\\[\w.-]{1,32})[\\/][\w.\\/-]{1,120}|\/etc\/(?:passwd|shadow|sudoers)|\.(?:ssh|aws|gnupg|kube|docker)[\\/]|(?<![\w.])\.(?:env|netrc|npmrc|pgpass|git-credentials|bash_history|zsh_history)\b|\bid_(?:rsa|ed25519|ecdsa|dsa)\b|\b(?:mcp|credentials|claude_desktop_config|service-account)\.json\b/g,
};

/** Where something can be sent: a URL, or the part of an e-mail address from its sign on. */
export const address: Shape = {
  signs: [['://', '@']],
  pattern: /\bhttps?:\/\/[^\s"'<>)\]]{4,}|@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b/g,
};

/** Pairs of words that mean something sensitive together. */
export const sensitivePair: Shape = {
  signs: [
    ['key', 'phrase', 'prompt', 'token', 'var', 'code', 'details', 'card', 'credentials', 'config'].flatMap((word) =>
      [' ', '_', '-'].map((between) => between + word),
    ),
  ],
  pattern:
    /\b(?:api|private|ssh|access|secret|encryption|signing|recovery|aws|session|auth|security|env|environment|seed|system|bank|credit)[ _-](?:keys?|phrases?|prompts?|tokens?|variables?|vars?|codes?|details|cards?|credentials|config)\b/g,
};

/** What a text that speaks about such attacks says, and an attack seldom does. */
export const discussion =
  /\b(?:attack(?:s|er|ers)?|injection|injections|jailbreaks?|phishing|malware|malicious|adversar(?:y|ies|ial)|vulnerabilit(?:y|ies)|exploit(?:s|ed)?|red[- ]team(?:ing)?|detect(?:s|ed|ion|or|ing)?|mitigat(?:e|es|ion)|defen[cs]es?|defend|research(?:ers)?|e\.g|for example|such as|phrases? like|owasp|threat|blocklist|classifier|payload|suspicious|awareness|beware|scams?|fraud)\b/g;
