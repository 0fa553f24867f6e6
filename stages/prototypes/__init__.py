"""Between stages one and two: cluster the teacher's embeddings into the prototypes that relations are measured on."""
