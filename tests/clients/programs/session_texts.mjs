// What the users of all JavaScript clients ask in a session.

export const QUESTIONS = [
  'What is the capital of France?', 'And of Italy?', 'Which country is Berlin in?', 'And Madrid?',
];
export const PICTURE = 'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=';
